// One block per hand. Launch a grid of hands and blocks of whole warps, 256 threads at most: one warp sums up the
// points of a view.
#include "fusion.cuh"

// The sums over all lanes, in lane 0. The host adds in the same order.
template <int N>
static __device__ void add_lanes(float (&sums)[N]) {
    for (int sum = 0; sum < N; ++sum)
        for (int distance = WARP / 2; distance > 0; distance /= 2)
            sums[sum] += __shfl_down_sync(0xffffffffu, sums[sum], distance);
}

template <typename T>
static __device__ void fuse(const HandViews<T>& hands, const FusedHands<T>& fused) {
    __shared__ Fusion fusion;
    const int hand = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x), lane = thread % WARP, warp = thread / WARP;

    if (thread == 0) share_weights(hands, hand, fusion);
    __syncthreads();
    for (int view = warp; view < hands.views; view += threads / WARP) {
        if (fusion.shares[view] == 0) continue;
        float sums[MOMENTS];
        add_moments(hands, hand, view, fusion, lane, sums);
        add_lanes(sums);
        for (int sum = 0; lane == 0 && sum < MOMENTS; ++sum) fusion.moments[view][sum] = sums[sum];
    }
    __syncthreads();
    for (int view = thread; view < hands.views; view += threads) align_view(hands, hand, view, fusion);
    __syncthreads();
    fuse_points(hands, hand, thread, threads, fusion, fused);
    fuse_parameters(hands, hand, thread, threads, fusion, fused);
    __syncthreads();
    if (warp == 0) {
        float sums[EQUATIONS];
        add_equations(hands, hand, fusion, lane, sums);
        add_lanes(sums);
        if (lane == 0) solve_root(sums, fused.root + 3 * hand);
    }
}

extern "C" __global__ void __launch_bounds__(256) fuse_half(HandViews<Half> hands, FusedHands<Half> fused) {
    fuse(hands, fused);
}

extern "C" __global__ void __launch_bounds__(256) fuse_float(HandViews<float> hands, FusedHands<float> fused) {
    fuse(hands, fused);
}
