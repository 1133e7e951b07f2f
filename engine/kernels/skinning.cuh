// Hand parameters to meshes, joints and landmarks: what each thread does. hamuco/engine/skinning.py has the formulas.
//
// A launch has (tiles + 1) x H blocks: those below `tiles` skin TILE vertices of one hand each, the last one writes the
// hand's joints, landmarks and rotations. With 0 vertices in the model it is the only one: landmarks cost no mesh.
// Every block poses the 16 bones for itself, which is cheaper than a launch of its own. A block goes through four
// phases, `read_hand`, `rest_pose`, `pose_bones` and `write_hand`, and waits for all of its threads between them.
//
// Memory: the constants are structures of arrays over vertices, so that neighbouring threads read neighbouring numbers.
// With Half they are N (72 + 3 K) bytes for vertices and 2112 + 137 A for joints and anchors; posedirs add
// 810 N + 1620 A. A hand adds 440 bytes in and 6 N + 1272 out. For the free hand (N = 1609, K = 4, A = 79) that is
// 148 kB + 11 kB H from and to memory; the constants of all hands but the first come from the L2 cache.
#pragma once

#include "portable.cuh"

constexpr int BONES = 16, SHAPES = 10, LANDMARKS = 21, POSE_FEATURES = 9 * (BONES - 1);
constexpr int ROOT = 9;    // the landmark that all points are relative to
constexpr int TILE = 128;  // threads of a block
constexpr int MOST_ANCHORS = LANDMARKS * BONES;
constexpr float NEAREST = 0.1f;     // a landmark nearer than this part of the root's distance is seen as if so far away
constexpr float DEPTH_UNIT = 0.2f;  // m

// Constants of a hand model with N vertices, of K bones each; hamuco/engine/hand_arrays.py makes them. A landmark is
// the sum of its anchors, A in all: points, each fixed to a bone, each with the mass by which the bone's translation
// counts. With them no vertex has to be skinned for a landmark.
template <typename T>
struct SkinningModel {
    const float* v_template;        // (3, N) m
    const T* shapedirs;             // (10, 3, N)
    const T* posedirs;              // (135, 3, N), or null
    const uint8_t* bones;           // (K, N)
    const uint16_t* weights;        // (K, N) times 65535
    const float* joints;            // (16, 3) m
    const float* joint_shapedirs;   // (10, 16, 3)
    const float* anchors;           // (3, A) m
    const float* anchor_shapedirs;  // (10, 3, A)
    const float* anchor_posedirs;   // (135, 3, A), or null
    const float* anchor_masses;     // (A,)
    const uint8_t* anchor_bones;    // (A,)
    const int32_t* anchor_starts;   // (22,): landmark j has the anchors from starts[j] to starts[j + 1] - 1
    int32_t vertices, bones_per_vertex, anchor_count;
};

static_assert(sizeof(SkinningModel<Half>) == 120, "no padding but at the end");

// What the networks say of H hands, each in a crop.
struct SkinningInputs {
    const float* pose;        // (H, 16, 6)
    const float* betas;       // (H, 10)
    const float* camera;      // (H, 3) s in half crops per metre, tx, ty
    const float* half_angle;  // (H,) tangent of half the crop's field of view; 0 for weak perspective
};

// Launchers write this struct byte by byte.
static_assert(sizeof(SkinningInputs) == 32, "pointers of 8 bytes");

// One hand in a block's shared memory.
struct PosedHand {
    alignas(16) float transforms[BONES][12];  // 3x4, carry points of the rest pose along with each bone
    float rotations[BONES][9];                // in the parents' frames
    float features[POSE_FEATURES];            // rotations of the fingers minus identity
    float betas[SHAPES];
    float rest_joints[BONES * 3];
    float joints[BONES][3];
    float anchors[MOST_ANCHORS][3];  // in the rest pose
};

struct Point {
    float x, y, z;
};

HD int tiles_of(int vertices) { return (vertices + TILE - 1) / TILE; }

HD Point cross(Point a, Point b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

HD Point unit(Point a) {
    const float length = sqrtf(a.x * a.x + a.y * a.y + a.z * a.z);
    const float divisor = length < 1e-12f ? 1e-12f : length;  // zeros stay zeros; unlike fmaxf, NaN stays NaN
    return {a.x / divisor, a.y / divisor, a.z / divisor};
}

// The first two columns of a matrix, as (3, 2) rows, to a rotation (Zhou et al., CVPR 2019), row-major.
HD void rotation_from_6d(const float* six, float* rotation) {
    const Point first{six[0], six[2], six[4]}, second{six[1], six[3], six[5]};
    const Point x = unit(first), z = unit(cross(x, second)), y = cross(z, x);
    const float rows[9] = {x.x, y.x, z.x, x.y, y.y, z.y, x.z, y.z, z.z};
    for (int i = 0; i < 9; ++i) rotation[i] = rows[i];
}

// Phase 1: pose and betas of hand `index`.
HD void read_hand(const SkinningInputs& hands, int index, int thread, PosedHand& hand) {
    if (thread < BONES) {
        float rotation[9];
        rotation_from_6d(hands.pose + 6 * (BONES * index + thread), rotation);
        for (int i = 0; i < 9; ++i) {
            hand.rotations[thread][i] = rotation[i];
            if (thread > 0) hand.features[9 * (thread - 1) + i] = rotation[i] - (i % 4 == 0 ? 1.0f : 0.0f);
        }
    } else if (thread < BONES + SHAPES) {
        hand.betas[thread - BONES] = hands.betas[SHAPES * index + thread - BONES];
    }
}

// One of `count` coordinates in the rest pose: `at_mean` (count,) corrected by shapedirs (10, count) and posedirs
// (135, count), which may be null.
template <typename S>
HD float rest_coordinate(const float* at_mean, const S* shapedirs, const S* posedirs, int count, int index,
                         const PosedHand& hand) {
    float sum = at_mean[index];
    for (int i = 0; i < SHAPES; ++i) sum += hand.betas[i] * to_float(shapedirs[i * count + index]);
    if (posedirs != nullptr) {
// Many loads under way at once: a launch for a few hands is too small to hide their latency in any other way.
#pragma unroll 45
        for (int i = 0; i < POSE_FEATURES; ++i) sum += hand.features[i] * to_float(posedirs[i * count + index]);
    }
    return sum;
}

// Phase 2: the rest pose of joints, of the anchors that the block needs, and of the thread's vertex, which it returns.
template <typename T>
HD Point rest_pose(const SkinningModel<T>& model, int block, int thread, PosedHand& hand) {
    const int vertices = model.vertices, anchors = model.anchor_count, vertex = block * TILE + thread;
    Point rest{0.0f, 0.0f, 0.0f};
    if (vertex < vertices) {
        const auto coordinate = [&](int c) {
            return rest_coordinate(model.v_template, model.shapedirs, model.posedirs, 3 * vertices,
                                   c * vertices + vertex, hand);
        };
        rest = {coordinate(0), coordinate(1), coordinate(2)};
    }
    for (int i = thread; i < 3 * BONES; i += TILE) {
        hand.rest_joints[i] = rest_coordinate<float>(model.joints, model.joint_shapedirs, nullptr, 3 * BONES, i, hand);
    }
    const bool last = block == tiles_of(vertices);  // the others need the root landmark alone
    const int start = last ? 0 : model.anchor_starts[ROOT];
    const int needed = (last ? anchors : model.anchor_starts[ROOT + 1]) - start;
    for (int i = thread; i < 3 * needed; i += TILE) {
        const int c = i / needed, anchor = start + i % needed;
        hand.anchors[anchor][c] = rest_coordinate(model.anchors, model.anchor_shapedirs, model.anchor_posedirs,
                                                  3 * anchors, c * anchors + anchor, hand);
    }
    return rest;
}

// Phase 3: forward kinematics, a finger per thread; each also turns the wrist, the parent of its first bone.
HD void pose_bones(int thread, PosedHand& hand) {
    if (thread >= 5) return;
    float parent[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
    for (int level = 0; level < 4; ++level) {
        const int bone = level == 0 ? 0 : 3 * thread + level;
        const float* rotation = hand.rotations[bone];
        const float* rest = hand.rest_joints + 3 * bone;
        float own[12], position[3];
        for (int r = 0; r < 3; ++r) {
            const float* row = parent + 4 * r;
            position[r] = row[0] * rest[0] + row[1] * rest[1] + row[2] * rest[2] + row[3];
            for (int c = 0; c < 3; ++c) {
                own[4 * r + c] = row[0] * rotation[c] + row[1] * rotation[3 + c] + row[2] * rotation[6 + c];
            }
            // The bone turns about its joint, not about the origin.
            own[4 * r + 3] = position[r] - own[4 * r] * rest[0] - own[4 * r + 1] * rest[1] - own[4 * r + 2] * rest[2];
        }
        for (int i = 0; i < 12; ++i) parent[i] = own[i];
        if (level == 0 && thread > 0) continue;  // the first finger's thread writes the wrist
        for (int i = 0; i < 12; ++i) hand.transforms[bone][i] = own[i];
        for (int i = 0; i < 3; ++i) hand.joints[bone][i] = position[i];
    }
}

// sum + rotation point + mass translation.
HD Point plus_moved(Point sum, const float* transform, Point point, float mass) {
    const float* t = transform;
    return {sum.x + t[0] * point.x + t[1] * point.y + t[2] * point.z + t[3] * mass,
            sum.y + t[4] * point.x + t[5] * point.y + t[6] * point.z + t[7] * mass,
            sum.z + t[8] * point.x + t[9] * point.y + t[10] * point.z + t[11] * mass};
}

template <typename T>
HD Point landmark(const SkinningModel<T>& model, int index, const PosedHand& hand) {
    Point sum{0.0f, 0.0f, 0.0f};
    for (int i = model.anchor_starts[index]; i < model.anchor_starts[index + 1]; ++i) {
        const float* at = hand.anchors[i];
        sum = plus_moved(sum, hand.transforms[model.anchor_bones[i]], {at[0], at[1], at[2]}, model.anchor_masses[i]);
    }
    return sum;
}

// Where a landmark (m, relative to the root) of hand `index` is seen, as the interaction network takes it: u and v from
// -1 to 1 between the crop's edges, and its depth behind the root in units of 0.2 m. See hamuco/engine/hamuco.py.
HD Point location_of(const SkinningInputs& hands, int index, Point landmark) {
    const float* camera = hands.camera + 3 * index;
    const float distance = 1.0f + hands.half_angle[index] * camera[0] * landmark.z;  // in units of the root's
    const float divisor = distance < NEAREST ? NEAREST : distance;                   // unlike fmaxf, NaN stays NaN
    const float u = (camera[0] * landmark.x + camera[1]) / divisor, v = (camera[0] * landmark.y + camera[2]) / divisor;
    return {u, v, landmark.z / DEPTH_UNIT};
}

// Where the results of H hands go; all points are relative to the root landmark, m. Half rounds a coordinate by 0.03 mm
// at most up to 0.125 m from there, and by 0.06 mm beyond, where wrists of large hands are.
template <typename T>
struct SkinnedHands {
    T* vertices;       // (H, N, 3)
    float* joints;     // (H, 16, 3)
    float* landmarks;  // (H, 21, 3)
    float* rotations;  // (H, 16, 3, 3) of the bones in their parents' frames
    float* location;   // (H, 21, 3) where the landmarks are seen, see `location_of`
};

static_assert(sizeof(SkinnedHands<Half>) == 40, "pointers of 8 bytes");

// The part of them that is one hand's.
template <typename T>
HD SkinnedHands<T> part(const SkinnedHands<T>& all, int hand, int vertices) {
    return {all.vertices + static_cast<size_t>(hand) * vertices * 3, all.joints + hand * BONES * 3,
            all.landmarks + hand * LANDMARKS * 3, all.rotations + hand * BONES * 9,
            all.location + hand * LANDMARKS * 3};
}

template <typename T>
HD void write_point(T* out, Point point) {
    out[0] = from_float<T>(point.x);
    out[1] = from_float<T>(point.y);
    out[2] = from_float<T>(point.z);
}

// Phase 4. `rest`: what phase 2 returned.
template <typename T>
HD void write_hand(const SkinningModel<T>& model, const SkinningInputs& hands, int index, int block, int thread,
                   Point rest, const PosedHand& hand, const SkinnedHands<T>& all) {
    const SkinnedHands<T> out = part(all, index, model.vertices);
    const int vertices = model.vertices, vertex = block * TILE + thread;
    const Point root = landmark(model, ROOT, hand);
    if (block == tiles_of(vertices)) {
        if (thread < LANDMARKS) {
            const Point at = landmark(model, thread, hand);
            const Point own{at.x - root.x, at.y - root.y, at.z - root.z}, seen = location_of(hands, index, own);
            write_point(out.landmarks + 3 * thread, own);
            write_point(out.location + 3 * thread, seen);
        } else if (thread >= 32 && thread < 32 + BONES) {  // another warp
            const int bone = thread - 32;
            const float* at = hand.joints[bone];
            write_point(out.joints + 3 * bone, {at[0] - root.x, at[1] - root.y, at[2] - root.z});
        }
        for (int i = thread; i < 9 * BONES; i += TILE) out.rotations[i] = hand.rotations[i / 9][i % 9];
    } else if (vertex < vertices) {
        Point sum{-root.x, -root.y, -root.z};
        for (int k = 0; k < model.bones_per_vertex; ++k) {
            const float weight = static_cast<float>(model.weights[k * vertices + vertex]) * (1.0f / 65535.0f);
            const Point point{weight * rest.x, weight * rest.y, weight * rest.z};
            sum = plus_moved(sum, hand.transforms[model.bones[k * vertices + vertex]], point, weight);
        }
        write_point(out.vertices + 3 * vertex, sum);
    }
}
