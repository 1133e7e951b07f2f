// Crops out of several cameras' frames: what `hamuco.engine.crops.warp_crops` does, with the lens model at every pixel
// instead of on a grid. Conventions as there: pixel centres at integers, camera axes x right, y down, z forward.
#pragma once

#include "portable.cuh"

// One camera: its frame, and its lens as `hamuco.calibration.camera.Camera` has it.
struct CameraFrame {
    const uint8_t* pixels;  // BGR, or NV12's luma
    const uint8_t* chroma;  // NV12's second plane, U and V by turns; nullptr for a frame that is BGR
    int width, height;      // px; of NV12 both even
    int stride;             // bytes from a row to the next, of both planes
    int fisheye;            // 1: distortion is OpenCV's fisheye model, k1 k2 k3 k4; 0: its pinhole model
    float fx, fy, cx, cy;   // px
    float max_tangent;      // of the angle up to which the radial distortion does not fold over; 100 if it never does
    float distortion[14];   // k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4 tx ty, or the fisheye's four; the rest 0
};

// One crop: `hamuco.engine.crops.CropCamera` and the camera that it looks through.
struct CropView {
    int camera;
    int mirrored;               // 1: columns run from right to left, for a left hand
    float focal;                // px of the crop
    float crop_from_camera[9];  // rotation of directions, by rows
};

// Launchers write these structs byte by byte.
static_assert(sizeof(CameraFrame) == 112 && sizeof(CropView) == 48, "no padding but at the end of CameraFrame");

struct Place {
    float x, y;
};

struct Colour {
    float blue, green, red;
};

// Of normalized coordinates of the pinhole model, in the same.
HD Place distorted_pinhole(const float* k, Place at) {
    const float x = at.x, y = at.y, r2 = x * x + y * y;
    const float radial = (1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))) / (1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7])));
    const float xy = 2 * x * y;
    const Place flat = {x * radial + k[2] * xy + k[3] * (r2 + 2 * x * x) + r2 * (k[8] + r2 * k[9]),
                        y * radial + k[2] * (r2 + 2 * y * y) + k[3] * xy + r2 * (k[10] + r2 * k[11])};
    if (k[12] == 0 && k[13] == 0) return flat;
    // The sensor is turned by tx about x, then by ty about y; the ray meets it where the turned plane is.
    const float cos_x = cosf(k[12]), sin_x = sinf(k[12]), cos_y = cosf(k[13]), sin_y = sinf(k[13]);
    const float turned_y = cos_x * flat.y + sin_x, turned_z = cos_x - sin_x * flat.y;
    const float depth = sin_y * flat.x + cos_y * turned_z;
    const float scale = cos_y * cos_x / depth;
    return {scale * (cos_y * flat.x - sin_y * turned_z) + sin_y * cos_x, scale * turned_y - sin_x};
}

HD Place distorted_fisheye(const float* k, Place at) {
    const float r = sqrtf(at.x * at.x + at.y * at.y);
    if (r < 1e-8f) return at;
    const float theta = atanf(r), t2 = theta * theta;
    const float scale = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3])))) / r;
    return {at.x * scale, at.y * scale};
}

// Where the crop's pixel lies in the camera's image. Directions beyond the lens model, those behind the camera among
// them, are taken back to its rim: without that the model's polynomials fold the middle of the image over them. What is
// NaN in the crop or its camera comes out as NaN.
HD Place place_in_image(const CropView& crop, const CameraFrame& camera, int size, int column, int row) {
    const float middle = 0.5f * static_cast<float>(size - 1);
    const float u = (static_cast<float>(crop.mirrored ? size - 1 - column : column) - middle) / crop.focal;
    const float v = (static_cast<float>(row) - middle) / crop.focal;
    const float* rotation = crop.crop_from_camera;
    const float x = u * rotation[0] + v * rotation[3] + rotation[6];
    const float y = u * rotation[1] + v * rotation[4] + rotation[7];
    const float z = u * rotation[2] + v * rotation[5] + rotation[8];
    const float across = sqrtf(x * x + y * y);
    const float scale = across > z * camera.max_tangent ? camera.max_tangent / across : 1 / z;
    const Place normalized = {x * scale, y * scale};
    const Place bent = camera.fisheye ? distorted_fisheye(camera.distortion, normalized)
                                      : distorted_pinhole(camera.distortion, normalized);
    return {camera.fx * bent.x + camera.cx, camera.fy * bent.y + camera.cy};
}

// The four pixels around a place, and where it lies between them. The border is repeated without end; NaN counts as 0.
struct Neighbours {
    int left, right, top, bottom;
    float across, down;
};

HD Neighbours neighbours(Place at, int width, int height) {
    // fmaxf returns the number of a number and a NaN.
    const float x = fminf(fmaxf(at.x, 0.0f), static_cast<float>(width - 1));
    const float y = fminf(fmaxf(at.y, 0.0f), static_cast<float>(height - 1));
    const int left = static_cast<int>(x), top = static_cast<int>(y);
    const int right = left + 1 < width ? left + 1 : left, bottom = top + 1 < height ? top + 1 : top;
    return {left, right, top, bottom, x - static_cast<float>(left), y - static_cast<float>(top)};
}

// One channel of a plane whose pixels are `step` bytes apart.
HD float bilinear(const Neighbours& at, const uint8_t* channel, int stride, int step) {
    const uint8_t* above = channel + static_cast<size_t>(at.top) * stride;
    const uint8_t* below = channel + static_cast<size_t>(at.bottom) * stride;
    const int left = at.left * step, right = at.right * step;
    const float upper = static_cast<float>(above[left]) + at.across * static_cast<float>(above[right] - above[left]);
    const float lower = static_cast<float>(below[left]) + at.across * static_cast<float>(below[right] - below[left]);
    return upper + at.down * (lower - upper);
}

// 0 to 255 each, not rounded.
//
// NV12 is interpolated before it is converted: luma at the place; chroma, whose samples lie in the middle of two by two
// pixels, between its own four neighbours. OpenCV's COLOR_YUV2BGR_NV12 gives each of the two by two the same chroma,
// so that colours differ from its by as much as chroma changes over half a pixel each way. Its coefficients are taken:
// BT.601, luma 16 to 235.
HD Colour colour_at(const CameraFrame& camera, Place at) {
    const Neighbours around = neighbours(at, camera.width, camera.height);
    if (camera.chroma == nullptr) {
        return {bilinear(around, camera.pixels, camera.stride, 3),
                bilinear(around, camera.pixels + 1, camera.stride, 3),
                bilinear(around, camera.pixels + 2, camera.stride, 3)};
    }
    const Place halved = {0.5f * (at.x - 0.5f), 0.5f * (at.y - 0.5f)};
    const Neighbours coarse = neighbours(halved, camera.width / 2, camera.height / 2);
    const float y = 1.164f * fmaxf(bilinear(around, camera.pixels, camera.stride, 1) - 16, 0.0f);
    const float u = bilinear(coarse, camera.chroma, camera.stride, 2) - 128;
    const float v = bilinear(coarse, camera.chroma + 1, camera.stride, 2) - 128;
    return {fminf(fmaxf(y + 2.018f * u, 0.0f), 255.0f),
            fminf(fmaxf(y - 0.391f * u - 0.813f * v, 0.0f), 255.0f),
            fminf(fmaxf(y + 1.596f * v, 0.0f), 255.0f)};
}

// One pixel of the crops; whoever launches may ask for some beyond their edges.
struct CropPixel {
    int crop, column, row;
};

HD bool outside(const CropPixel& pixel, int size) { return pixel.column >= size || pixel.row >= size; }

HD Colour cropped(const CropView* crops, const CameraFrame* cameras, int size, const CropPixel& pixel) {
    const CropView& crop = crops[pixel.crop];
    const CameraFrame& camera = cameras[crop.camera];
    return colour_at(camera, place_in_image(crop, camera, size, pixel.column, pixel.row));
}

// `out` (n, 3, size, size): planes R, G, B with mean 0 and deviation 1 over ImageNet, as the estimator takes them.
template <typename T>
HD void crop_normalized(const CropView* crops, const CameraFrame* cameras, int size, const CropPixel& pixel, T* out) {
    if (outside(pixel, size)) return;
    const Colour colour = cropped(crops, cameras, size, pixel);
    const size_t plane = static_cast<size_t>(size) * size;
    T* red = out + 3 * plane * pixel.crop + static_cast<size_t>(pixel.row) * size + pixel.column;
    red[0] = from_float<T>((colour.red - 255 * 0.485f) / (255 * 0.229f));
    red[plane] = from_float<T>((colour.green - 255 * 0.456f) / (255 * 0.224f));
    red[2 * plane] = from_float<T>((colour.blue - 255 * 0.406f) / (255 * 0.225f));
}
