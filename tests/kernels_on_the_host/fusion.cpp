// The fusion kernels' phases in plain loops over blocks and threads, for tests.
#include "fusion.cuh"

// Sums of `lane_sums(lane, sums)` over a warp, in the order of the device's shuffles.
template <int N, typename LaneSums>
static void add_lanes(float (&total)[N], LaneSums lane_sums) {
    float sums[WARP][N];
    for (int lane = 0; lane < WARP; ++lane) lane_sums(lane, sums[lane]);
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        for (int lane = 0; lane < distance; ++lane)
            for (int sum = 0; sum < N; ++sum) sums[lane][sum] += sums[lane + distance][sum];
    std::memcpy(total, sums[0], sizeof total);
}

template <typename T>
static void fuse(const HandViews<T>& hands, const FusedHands<T>& fused, int hand, int threads) {
    Fusion fusion;
    std::memset(&fusion, 0xff, sizeof fusion);  // NaN, which shows what is read before it is written
    share_weights(hands, hand, fusion);
    for (int view = 0; view < hands.views; ++view) {
        if (fusion.shares[view] == 0) continue;
        add_lanes(fusion.moments[view],
                  [&](int lane, float* sums) { add_moments(hands, hand, view, fusion, lane, sums); });
    }
    for (int view = 0; view < hands.views; ++view) align_view(hands, hand, view, fusion);
    for (int thread = 0; thread < threads; ++thread) fuse_points(hands, hand, thread, threads, fusion, fused);
    for (int thread = 0; thread < threads; ++thread) fuse_parameters(hands, hand, thread, threads, fusion, fused);
    float equations[EQUATIONS];
    add_lanes(equations, [&](int lane, float* sums) { add_equations(hands, hand, fusion, lane, sums); });
    solve_root(equations, fused.root + 3 * hand);
}

extern "C" void fuse_half(const HandViews<Half>* hands, const FusedHands<Half>* fused, int count, int threads) {
    for (int hand = 0; hand < count; ++hand) fuse(*hands, *fused, hand, threads);
}

extern "C" void fuse_float(const HandViews<float>* hands, const FusedHands<float>* fused, int count, int threads) {
    for (int hand = 0; hand < count; ++hand) fuse(*hands, *fused, hand, threads);
}
