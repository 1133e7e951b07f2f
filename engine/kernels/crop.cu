// One thread per pixel. Launch blocks (w, h), 32 x 8 for instance, in a grid (ceil(size / w), ceil(size / h), crops).
#include "crop.cuh"

static __device__ CropPixel pixel_of_thread() {
    return {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x),
            static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y)};
}

extern "C" __global__ void crop_normalized_half(
    const CropView* crops, const CameraFrame* cameras, int size, Half* out) {
    crop_normalized(crops, cameras, size, pixel_of_thread(), out);
}

extern "C" __global__ void crop_normalized_float(
    const CropView* crops, const CameraFrame* cameras, int size, float* out) {
    crop_normalized(crops, cameras, size, pixel_of_thread(), out);
}
