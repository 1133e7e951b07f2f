// Skinning of H hands in one launch: grid (tiles_of(N) + 1, H), blocks of 128 threads. See skinning.cuh.
#include "skinning.cuh"

// pose (H, 16, 6), betas (H, 10); outputs as `SkinnedHand` has them, H times.
template <typename T>
__device__ void skin(const SkinningModel<T>& model, const T* pose, const T* betas, const SkinnedHand<T>& out) {
    __shared__ PosedHand hand;
    const int block = blockIdx.x, index = blockIdx.y, thread = threadIdx.x;
    read_hand(pose + index * BONES * 6, betas + index * SHAPES, thread, hand);
    __syncthreads();
    const Point rest = rest_pose(model, block, thread, hand);
    __syncthreads();
    pose_bones(thread, hand);
    __syncthreads();
    write_hand(model, block, thread, rest, hand, part(out, index, model.vertices));
}

extern "C" __global__ void __launch_bounds__(TILE)
    skin_half(const SkinningModel<Half> model, const Half* pose, const Half* betas, Half* vertices, float* joints,
              float* landmarks, float* rotations) {
    skin<Half>(model, pose, betas, {vertices, joints, landmarks, rotations});
}

extern "C" __global__ void __launch_bounds__(TILE)
    skin_float(const SkinningModel<float> model, const float* pose, const float* betas, float* vertices, float* joints,
               float* landmarks, float* rotations) {
    skin<float>(model, pose, betas, {vertices, joints, landmarks, rotations});
}
