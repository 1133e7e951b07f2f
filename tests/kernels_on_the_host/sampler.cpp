// The joint feature sampler without a GPU, for tests: block after block, thread after thread.
#include "sampler.cuh"

namespace {

template <typename T>
void sample(const FeatureMaps<T>& maps, const float* location, T* tokens, int count) {
    for (int index = 0; index < count * LANDMARKS; ++index) {
        for (int thread = 0; thread < SAMPLER_THREADS; ++thread) sample_joint(maps, location, tokens, index, thread);
    }
}

}  // namespace

extern "C" void sample_half(const FeatureMaps<Half>* maps, const float* location, Half* tokens, int count) {
    sample(*maps, location, tokens, count);
}

extern "C" void sample_float(const FeatureMaps<float>* maps, const float* location, float* tokens, int count) {
    sample(*maps, location, tokens, count);
}
