// The skinning kernels without a GPU, for tests: block after block, in each phase thread after thread.
#include "skinning.cuh"

namespace {

// `backwards`: the last thread first. Threads of one phase must not depend on each other, so the results are the same.
template <typename Body>
void each_thread(bool backwards, Body body) {
    for (int i = 0; i < TILE; ++i) body(backwards ? TILE - 1 - i : i);
}

template <typename T>
void skin(const SkinningModel<T>& model, const SkinningInputs& hands, const SkinnedHands<T>& out, int count,
          bool backwards) {
    for (int index = 0; index < count; ++index) {
        for (int block = 0; block <= tiles_of(model.vertices); ++block) {
            PosedHand hand;
            Point rest[TILE];
            std::memset(&hand, 0xff, sizeof hand);  // NaN: what is read before it is written shows
            each_thread(backwards, [&](int thread) { read_hand(hands, index, thread, hand); });
            each_thread(backwards, [&](int thread) { rest[thread] = rest_pose(model, block, thread, hand); });
            each_thread(backwards, [&](int thread) { pose_bones(thread, hand); });
            each_thread(backwards, [&](int thread) {
                write_hand(model, hands, index, block, thread, rest[thread], hand, out);
            });
        }
    }
}

}  // namespace

extern "C" void skin_half(const SkinningModel<Half>* model, const SkinningInputs* hands, const SkinnedHands<Half>* out,
                          int count, int backwards) {
    skin(*model, *hands, *out, count, backwards != 0);
}

extern "C" void skin_float(const SkinningModel<float>* model, const SkinningInputs* hands,
                           const SkinnedHands<float>* out, int count, int backwards) {
    skin(*model, *hands, *out, count, backwards != 0);
}

// The conversions of portable.cuh, which all kernels use.
extern "C" void floats_to_halves(int count, const float* values, Half* halves) {
    for (int i = 0; i < count; ++i) halves[i] = from_float<Half>(values[i]);
}

extern "C" void halves_to_floats(int count, const Half* halves, float* values) {
    for (int i = 0; i < count; ++i) values[i] = to_float(halves[i]);
}
