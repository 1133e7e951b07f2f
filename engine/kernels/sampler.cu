// The joint feature sampler in one launch: grid (n * 21), blocks of 128 threads. See sampler.cuh.
#include "sampler.cuh"

extern "C" __global__ void __launch_bounds__(SAMPLER_THREADS)
    sample_half(const FeatureMaps<Half> maps, const float* location, Half* tokens) {
    sample_joint(maps, location, tokens, blockIdx.x, threadIdx.x);
}

extern "C" __global__ void __launch_bounds__(SAMPLER_THREADS)
    sample_float(const FeatureMaps<float> maps, const float* location, float* tokens) {
    sample_joint(maps, location, tokens, blockIdx.x, threadIdx.x);
}
