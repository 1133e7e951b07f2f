// Joint feature sampler: writes what three feature maps have where joints are seen into the joints' tokens; what each
// thread does. The reference is torch's grid_sample (bilinear, zeros outside, align_corners=False).
//
// A launch has a block for each of n x 21 joints; its threads share the C channels of the maps among them. No thread
// depends on another.
//
// Memory: maps of networks are usually NCHW, where neighbouring threads read far apart: of each channel two rows with
// two neighbouring numbers, so at least 2 sectors of 32 bytes for 8 bytes of Half. For ResNet-18 (C = 64 + 128 + 256)
// that is 29 kB per joint and 0.6 MB per crop, most of it from the L2 cache where the network has just left it. From
// NHWC maps a joint takes 8 C bytes without waste, 3.6 kB; strides are arguments, so whoever can choose gives those.
#pragma once

#include "portable.cuh"

constexpr int LANDMARKS = 21, LEVELS = 3;
constexpr int SAMPLER_THREADS = 128;  // of a block

// n crops, each of `channels` maps of size x size pixels, without gaps between crops or rows. Strides count numbers:
// NCHW has size * size and 1, NHWC has 1 and channels.
template <typename T>
struct FeatureMap {
    const T* values;
    int32_t channels, size, channel_stride, column_stride;
};

template <typename T>
struct FeatureMaps {
    FeatureMap<T> levels[LEVELS];
};

// Launchers write this struct byte by byte.
static_assert(sizeof(FeatureMaps<Half>) == 72, "no padding");

// The four pixels around a point of a map, and their weights; offset -1 for those that are not on the map.
struct Footprint {
    int offsets[4];
    float weights[4];
};

// False where no pixel of the map is next to the point, or u or v is not a number.
template <typename T>
HD bool footprint(const FeatureMap<T>& map, float u, float v, Footprint& out) {
    const float size = static_cast<float>(map.size);
    const float x = ((u + 1.0f) * size - 1.0f) * 0.5f, y = ((v + 1.0f) * size - 1.0f) * 0.5f;
    if (!(x > -1.0f && x < size && y > -1.0f && y < size)) return false;
    const float left = floorf(x), top = floorf(y);
    for (int i = 0; i < 4; ++i) {
        const int right = i & 1, below = i >> 1;
        const int column = static_cast<int>(left) + right, row = static_cast<int>(top) + below;
        const bool inside = column >= 0 && column < map.size && row >= 0 && row < map.size;
        out.offsets[i] = inside ? (row * map.size + column) * map.column_stride : -1;
        out.weights[i] = (right ? x - left : 1.0f - (x - left)) * (below ? y - top : 1.0f - (y - top));
    }
    return true;
}

// Everything that one of SAMPLER_THREADS threads does for the joint `index` of n x 21. `location` (n, 21, 3): u and v,
// from -1 to 1 between the outer edges of the crop, and a third number that plays no part. `tokens` (n, 21, C).
template <typename T>
HD void sample_joint(const FeatureMaps<T>& maps, const float* location, T* tokens, int index, int thread) {
    int channels = 0;
    for (const FeatureMap<T>& map : maps.levels) channels += map.channels;
    T* token = tokens + static_cast<size_t>(index) * channels;
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
        const FeatureMap<T>& map = maps.levels[level];
        const T* own = map.values + static_cast<size_t>(index / LANDMARKS) * map.channels * map.size * map.size;
        Footprint around;
        const bool seen = footprint(map, location[3 * index], location[3 * index + 1], around);
        for (int channel = thread; channel < map.channels; channel += SAMPLER_THREADS) {
            const T* plane = own + static_cast<size_t>(channel) * map.channel_stride;
            float sum = 0.0f;
            for (int i = 0; i < 4; ++i) {
                // Pixels off the map are left out, not read with weight 0.
                if (seen && around.offsets[i] >= 0) sum += around.weights[i] * to_float(plane[around.offsets[i]]);
            }
            token[channel] = from_float<T>(sum);
        }
        token += map.channels;
    }
}
