// Skinning of H hands in one launch: grid (tiles_of(N) + 1, H), blocks of 128 threads. See skinning.cuh.
#include "skinning.cuh"

template <typename T>
__device__ void skin(const SkinningModel<T>& model, const SkinningInputs& hands, const SkinnedHands<T>& out) {
    __shared__ PosedHand hand;
    const int block = blockIdx.x, index = blockIdx.y, thread = threadIdx.x;
    read_hand(hands, index, thread, hand);
    __syncthreads();
    const Point rest = rest_pose(model, block, thread, hand);
    __syncthreads();
    pose_bones(thread, hand);
    __syncthreads();
    write_hand(model, hands, index, block, thread, rest, hand, out);
}

extern "C" __global__ void __launch_bounds__(TILE)
    skin_half(const SkinningModel<Half> model, const SkinningInputs hands, const SkinnedHands<Half> out) {
    skin(model, hands, out);
}

extern "C" __global__ void __launch_bounds__(TILE)
    skin_float(const SkinningModel<float> model, const SkinningInputs hands, const SkinnedHands<float> out) {
    skin(model, hands, out);
}
