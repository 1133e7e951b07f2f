// One hand out of what several views say of it: `hamuco.fusion.alignment` on the device.
//
// A block fuses one hand, in phases with a barrier after each. What is summed over many points is one warp's work, so
// that shuffles do for the sums. Left hands are right hands in a mirrored world, as in `hamuco.fusion.mean_hand`: their
// crop_from_world is mirrored by the caller, and so is what comes out.
#pragma once

#include "portable.cuh"

constexpr int MAX_VIEWS = 64, BONES = 16, LANDMARKS = 21, SHAPES = 10, WARP = 32;

// What H hands look like in V views each. Views of weight 0 or NaN are not read any further. Points are in the axes of
// the crop, relative to the root, in metres, and not far from it: they are summed with their squares in one pass.
template <typename T>
struct HandViews {
    const T* vertices;              // (H, V, N, 3)
    const float* landmarks;         // (H, V, 21, 3)
    const float* weights;           // (H, V)
    const float* crop_from_world;   // (H, V, 4, 4) m; NaN where the view is not calibrated
    const float* rotations;         // (H, V, 16, 3, 3) of the bones in their parents' frames, the first in the crop's
    const float* betas;             // (H, V, 10)
    const float* location;          // (H, V, 21, 3) u and v of the landmarks, -1 to 1 in the crop; and one unused
    const float* half_angle;        // (H, V) tangent of half the crop's field of view
    const float* landmark_weights;  // (H, V, 21) of u and v, to be multiplied with the view's
    int views, vertex_count;        // V up to MAX_VIEWS, N
};

// Axes of the world; of the canonical view's crop where no view is calibrated.
template <typename T>
struct FusedHands {
    T* vertices;       // (H, N, 3) m, relative to `root`; zeros where no view has a weight
    float* landmarks;  // (H, 21, 3) m, likewise; the root's own is not exactly at zero, because centroids are aligned
    float* rotations;  // (H, 16, 3, 3), the first in the world's axes; identities where no view has a weight
    float* betas;      // (H, 10)
    float* root;       // (H, 3) m, world; NaN where the views do not say
};

// Launchers write these structs byte by byte.
static_assert(sizeof(HandViews<float>) == 80 && sizeof(FusedHands<float>) == 40, "pointers of 8 bytes, no padding");

// Sums over the points p of a view and the points c of the canonical one: p (3), |p|^2, c pT (9).
constexpr int MOMENTS = 13;
// The normal equations of the root's place: upper triangle of the matrix (6), right side (3).
constexpr int EQUATIONS = 9;

// Shared by the threads of a block.
struct Fusion {
    int canonical;                  // the view that all are aligned to
    float shares[MAX_VIEWS];        // weights that add up to 1, or 0
    float moments[MAX_VIEWS][MOMENTS];
    float turn[MAX_VIEWS][9];       // fused = scale * turn * point + shift
    float scale[MAX_VIEWS];
    float shift[MAX_VIEWS][3];
    float landmarks[LANDMARKS][3];  // fused
};

HD float dot(const float* a, const float* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

HD void turned(const float* rotation, const float* vector, float* out) {
    for (int row = 0; row < 3; ++row) out[row] = dot(rotation + 3 * row, vector);
}

// Eigenvalues (then the diagonal of `matrix`) and eigenvectors (columns) of a symmetric matrix, by Jacobi rotations:
// Golub and Van Loan, Matrix Computations, 8.5. In 200,000 random 4 x 4 matrices five sweeps left nothing but rounding
// off the diagonal, 1.3e-7 of the norm; four left 1e-4. NaN ends as NaN.
template <int N>
HD void symmetric_eigen(float (&matrix)[N][N], float (&vectors)[N][N]) {
    for (int row = 0; row < N; ++row)
        for (int column = 0; column < N; ++column) vectors[row][column] = row == column ? 1.0f : 0.0f;
    for (int sweep = 0; sweep < 5; ++sweep) {
        for (int p = 0; p < N - 1; ++p) {
            for (int q = p + 1; q < N; ++q) {
                if (matrix[p][q] == 0) continue;
                const float theta = (matrix[q][q] - matrix[p][p]) / (2 * matrix[p][q]);
                const float t = copysignf(1 / (fabsf(theta) + sqrtf(theta * theta + 1)), theta);
                const float c = 1 / sqrtf(t * t + 1), s = t * c;
                for (int k = 0; k < N; ++k) {
                    const float left = matrix[k][p], right = matrix[k][q];
                    matrix[k][p] = c * left - s * right;
                    matrix[k][q] = s * left + c * right;
                }
                for (int k = 0; k < N; ++k) {
                    const float upper = matrix[p][k], lower = matrix[q][k];
                    matrix[p][k] = c * upper - s * lower;
                    matrix[q][k] = s * upper + c * lower;
                    const float left = vectors[k][p], right = vectors[k][q];
                    vectors[k][p] = c * left - s * right;
                    vectors[k][q] = s * left + c * right;
                }
            }
        }
    }
}

// The rotation nearest to a matrix (9, by rows) in the Frobenius norm, never a reflection: the quaternion that Horn's
// symmetric matrix stretches most (Closed-form solution of absolute orientation using unit quaternions, 1987). The
// identity for a matrix of zeros.
HD void nearest_rotation(const float* m, float* rotation) {
    float horn[4][4] = {{m[0] + m[4] + m[8], m[7] - m[5], m[2] - m[6], m[3] - m[1]},
                        {m[7] - m[5], m[0] - m[4] - m[8], m[1] + m[3], m[2] + m[6]},
                        {m[2] - m[6], m[1] + m[3], m[4] - m[0] - m[8], m[5] + m[7]},
                        {m[3] - m[1], m[2] + m[6], m[5] + m[7], m[8] - m[0] - m[4]}};
    float vectors[4][4];
    symmetric_eigen(horn, vectors);
    float best = horn[0][0], w = vectors[0][0], x = vectors[1][0], y = vectors[2][0], z = vectors[3][0];
    for (int k = 1; k < 4; ++k) {
        if (horn[k][k] <= best) continue;
        best = horn[k][k], w = vectors[0][k], x = vectors[1][k], y = vectors[2][k], z = vectors[3][k];
    }
    const float two = 2 / (w * w + x * x + y * y + z * z);
    rotation[0] = 1 - two * (y * y + z * z), rotation[1] = two * (x * y - w * z), rotation[2] = two * (x * z + w * y);
    rotation[3] = two * (x * y + w * z), rotation[4] = 1 - two * (x * x + z * z), rotation[5] = two * (y * z - w * x);
    rotation[6] = two * (x * z - w * y), rotation[7] = two * (y * z + w * x), rotation[8] = 1 - two * (x * x + y * y);
}

HD bool is_calibrated(const float* crop_from_world) {
    float sum = 0;  // finite when everything in it is
    for (int entry = 0; entry < 12; ++entry) sum += crop_from_world[entry];
    return std::isfinite(sum);
}

// Phase 1, one thread. The canonical view is the one with the largest weight, a calibrated one if there is any.
template <typename T>
HD void share_weights(const HandViews<T>& hands, int hand, Fusion& fusion) {
    float total = 0, best = 0;
    bool best_calibrated = false;
    fusion.canonical = 0;
    for (int view = 0; view < hands.views; ++view) {
        const int row = hand * hands.views + view;
        const float weight = hands.weights[row] > 0 ? hands.weights[row] : 0;
        fusion.shares[view] = weight;
        total += weight;
        if (weight == 0) continue;
        const bool calibrated = is_calibrated(hands.crop_from_world + 16 * row);
        if (calibrated == best_calibrated ? weight > best : calibrated) {
            best = weight, best_calibrated = calibrated, fusion.canonical = view;
        }
    }
    for (int view = 0; view < hands.views; ++view) fusion.shares[view] = total > 0 ? fusion.shares[view] / total : 0;
}

// Vertices first, then landmarks.
template <typename T>
HD void load_point(const HandViews<T>& hands, int hand, int view, int point, float* out) {
    const size_t row = static_cast<size_t>(hand) * hands.views + view;
    if (point < hands.vertex_count) {
        const T* vertex = hands.vertices + 3 * (row * hands.vertex_count + point);
        for (int axis = 0; axis < 3; ++axis) out[axis] = to_float(vertex[axis]);
    } else {
        const float* landmark = hands.landmarks + 3 * (row * LANDMARKS + point - hands.vertex_count);
        for (int axis = 0; axis < 3; ++axis) out[axis] = landmark[axis];
    }
}

// Phase 2, one warp per view: a lane's part of the sums.
template <typename T>
HD void add_moments(const HandViews<T>& hands, int hand, int view, const Fusion& fusion, int lane, float* sums) {
    for (int sum = 0; sum < MOMENTS; ++sum) sums[sum] = 0;
    for (int point = lane; point < hands.vertex_count + LANDMARKS; point += WARP) {
        float own[3], canonical[3];
        load_point(hands, hand, view, point, own);
        load_point(hands, hand, fusion.canonical, point, canonical);
        for (int axis = 0; axis < 3; ++axis) {
            sums[axis] += own[axis];
            for (int other = 0; other < 3; ++other) sums[4 + 3 * axis + other] += canonical[axis] * own[other];
        }
        sums[3] += dot(own, own);
    }
}

// Phase 3, one thread per view: the similarity to the canonical view, turned to the world. The rotation comes from
// extrinsics where both views have them and from the points (Procrustes) where not; scale and translation always come
// from the points. A scale below 0.1 is none: views that contradict each other would mirror the hand.
template <typename T>
HD void align_view(const HandViews<T>& hands, int hand, int view, Fusion& fusion) {
    if (fusion.shares[view] == 0) return;
    const float* own_frame = hands.crop_from_world + 16 * (hand * hands.views + view);
    const float* frame = hands.crop_from_world + 16 * (hand * hands.views + fusion.canonical);
    const bool in_world = is_calibrated(frame);

    const float points = static_cast<float>(hands.vertex_count + LANDMARKS);
    const float *sums = fusion.moments[view], *canonical_sums = fusion.moments[fusion.canonical];
    float own_centre[3], centre[3], correlation[9], rotation[9];
    for (int axis = 0; axis < 3; ++axis) {
        own_centre[axis] = sums[axis] / points;
        centre[axis] = canonical_sums[axis] / points;
    }
    for (int entry = 0; entry < 9; ++entry)
        correlation[entry] = sums[4 + entry] - points * centre[entry / 3] * own_centre[entry % 3];
    if (in_world && is_calibrated(own_frame)) {
        for (int entry = 0; entry < 9; ++entry)
            rotation[entry] = dot(frame + 4 * (entry / 3), own_frame + 4 * (entry % 3));
    } else {
        nearest_rotation(correlation, rotation);
    }

    float scale = 1, shift[3] = {0, 0, 0};
    if (view != fusion.canonical) {
        float agreement = 0;
        for (int entry = 0; entry < 9; ++entry) agreement += rotation[entry] * correlation[entry];
        const float spread = sums[3] - points * dot(own_centre, own_centre);
        scale = fmaxf(agreement / spread, 0.1f);
        turned(rotation, own_centre, shift);
        for (int axis = 0; axis < 3; ++axis) shift[axis] = centre[axis] - scale * shift[axis];
    } else {
        for (int entry = 0; entry < 9; ++entry) rotation[entry] = entry % 4 == 0 ? 1.0f : 0.0f;
    }

    fusion.scale[view] = scale;
    for (int row = 0; row < 3; ++row) {  // from the canonical crop's axes to the world's
        float world[3] = {row == 0 ? 1.0f : 0.0f, row == 1 ? 1.0f : 0.0f, row == 2 ? 1.0f : 0.0f};
        for (int axis = 0; in_world && axis < 3; ++axis) world[axis] = frame[4 * axis + row];
        fusion.shift[view][row] = dot(world, shift);
        for (int column = 0; column < 3; ++column) {
            const float down[3] = {rotation[column], rotation[3 + column], rotation[6 + column]};
            fusion.turn[view][3 * row + column] = dot(world, down);
        }
    }
}

// Phase 4, all threads: weighted means of the aligned points.
template <typename T>
HD void fuse_points(
    const HandViews<T>& hands, int hand, int thread, int threads, Fusion& fusion, const FusedHands<T>& fused) {
    for (int point = thread; point < hands.vertex_count + LANDMARKS; point += threads) {
        float mean[3] = {0, 0, 0};
        for (int view = 0; view < hands.views; ++view) {
            const float share = fusion.shares[view];
            if (share == 0) continue;
            float own[3], aligned[3];
            load_point(hands, hand, view, point, own);
            turned(fusion.turn[view], own, aligned);
            for (int axis = 0; axis < 3; ++axis)
                mean[axis] += share * (fusion.scale[view] * aligned[axis] + fusion.shift[view][axis]);
        }
        const int landmark = point - hands.vertex_count;
        for (int axis = 0; axis < 3; ++axis) {
            if (landmark < 0) {
                const size_t vertex = static_cast<size_t>(hand) * hands.vertex_count + point;
                fused.vertices[3 * vertex + axis] = from_float<T>(mean[axis]);
            } else {
                fused.landmarks[3 * (hand * LANDMARKS + landmark) + axis] = mean[axis];
                fusion.landmarks[landmark][axis] = mean[axis];
            }
        }
    }
}

// Also phase 4: chordal means of the bones' rotations (Hartley et al., Rotation Averaging, 2013), means of the shapes.
template <typename T>
HD void fuse_parameters(
    const HandViews<T>& hands, int hand, int thread, int threads, const Fusion& fusion, const FusedHands<T>& fused) {
    for (int item = thread; item < BONES + SHAPES; item += threads) {
        const bool is_bone = item < BONES;
        float mean[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, shape = 0;
        for (int view = 0; view < hands.views; ++view) {
            const float share = fusion.shares[view];
            if (share == 0) continue;
            const int row = hand * hands.views + view;
            if (!is_bone) {
                shape += share * hands.betas[SHAPES * row + item - BONES];
                continue;
            }
            const float* rotation = hands.rotations + 9 * (BONES * row + item);
            for (int entry = 0; entry < 9; ++entry) {
                const int column = entry % 3;
                const float down[3] = {rotation[column], rotation[3 + column], rotation[6 + column]};
                // The first is in the axes of the crop, the others in those of a bone.
                const float value = item == 0 ? dot(fusion.turn[view] + entry - column, down) : rotation[entry];
                mean[entry] += share * value;
            }
        }
        if (is_bone) {
            nearest_rotation(mean, fused.rotations + 9 * (BONES * hand + item));
        } else {
            fused.betas[SHAPES * hand + item - BONES] = shape;
        }
    }
}

// Phase 5, one warp: a lane's part of the normal equations of the root's place.
//
// A landmark P of the hand at t, with the rows r and the translation T of a view, is seen at x = u * half_angle where
// (r1 - x r3) . (t + P) = x T3 - T1, and likewise for y. Nothing is voted out: who expects wrong views gives them small
// weights, or places the hand by `ransac_centre`.
template <typename T>
HD void add_equations(const HandViews<T>& hands, int hand, const Fusion& fusion, int lane, float* sums) {
    for (int sum = 0; sum < EQUATIONS; ++sum) sums[sum] = 0;
    for (int seen = lane; seen < hands.views * LANDMARKS; seen += WARP) {
        const int view = seen / LANDMARKS, landmark = seen % LANDMARKS, row = hand * hands.views + view;
        if (fusion.shares[view] == 0) continue;
        const float weight = fusion.shares[view] * hands.landmark_weights[LANDMARKS * row + landmark];
        const float* frame = hands.crop_from_world + 16 * row;
        if (!(weight > 0) || !is_calibrated(frame)) continue;
        const float* location = hands.location + 3 * (LANDMARKS * row + landmark);
        const float at[2] = {location[0] * hands.half_angle[row], location[1] * hands.half_angle[row]};
        if (!std::isfinite(at[0] + at[1])) continue;
        for (int axis = 0; axis < 2; ++axis) {
            float left[3];
            for (int column = 0; column < 3; ++column)
                left[column] = frame[4 * axis + column] - at[axis] * frame[8 + column];
            const float right = at[axis] * frame[11] - frame[4 * axis + 3] - dot(left, fusion.landmarks[landmark]);
            sums[0] += weight * left[0] * left[0], sums[1] += weight * left[0] * left[1];
            sums[2] += weight * left[0] * left[2], sums[3] += weight * left[1] * left[1];
            sums[4] += weight * left[1] * left[2], sums[5] += weight * left[2] * left[2];
            for (int column = 0; column < 3; ++column) sums[6 + column] += weight * left[column] * right;
        }
    }
}

// Phase 6, one thread. Of equations that have no solution rounding leaves the smallest eigenvalue at some 1e-7 of the
// largest; a hand of 10 cm that one camera sees from 3 m, the weakest case of use, is at 2e-4.
HD void solve_root(const float* sums, float* root) {
    float matrix[3][3] = {{sums[0], sums[1], sums[2]}, {sums[1], sums[3], sums[4]}, {sums[2], sums[4], sums[5]}};
    float vectors[3][3];
    symmetric_eigen(matrix, vectors);
    const float smallest = fminf(fminf(matrix[0][0], matrix[1][1]), matrix[2][2]);
    const float largest = fmaxf(fmaxf(matrix[0][0], matrix[1][1]), matrix[2][2]);
    for (int axis = 0; axis < 3; ++axis) root[axis] = smallest > 2e-6f * largest ? 0.0f : NAN;
    for (int k = 0; k < 3; ++k) {
        const float down[3] = {vectors[0][k], vectors[1][k], vectors[2][k]};
        const float along = dot(down, sums + 6) / matrix[k][k];
        for (int axis = 0; axis < 3; ++axis) root[axis] += along * down[axis];
    }
}
