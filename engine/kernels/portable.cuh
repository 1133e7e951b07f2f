// What lets one source be a CUDA kernel's body and plain C++ for tests on a computer without a GPU.
//
// Values are stored as T, Half or float, and computed with as float. Build without --use_fast_math: kernels count on
// NaN, infinity and exact division.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define HD __host__ __device__ inline
#else
#define HD inline
#endif

// An IEEE 754 number of 16 bits; numpy's float16, CUDA's __half.
struct Half {
    uint16_t bits;
};

// Exact.
HD float to_float(Half value) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(value.bits));
#else
    const uint32_t sign = (value.bits & 0x8000u) << 16, mantissa = value.bits & 0x3ffu;
    const uint32_t exponent = (value.bits >> 10) & 31u;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormal numbers
        return sign ? -magnitude : magnitude;
    }
    const uint32_t bits = sign | (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | mantissa << 13;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
#endif
}

// Rounds to the nearest, ties to even; from 65520 on to infinity; NaN stays NaN.
HD Half half_from_float(float value) {
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(value))};
#else
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    uint32_t rounded;
    if (magnitude > 0x7f800000u) {
        rounded = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {
        rounded = 0x7c00u;
    } else if (magnitude >= 0x38800000u) {
        // 112: the difference of the exponents' biases. A carry out of the mantissa raises the exponent, as it should.
        rounded = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    } else {
        // Subnormal: adding 0.5, whose last bit is worth 2^-24 as a subnormal's is, leaves the addition to round.
        float absolute;
        std::memcpy(&absolute, &magnitude, sizeof absolute);
        absolute += 0.5f;
        std::memcpy(&rounded, &absolute, sizeof rounded);
        rounded -= 0x3f000000u;
    }
    return {static_cast<uint16_t>(sign | rounded)};
#endif
}

HD float to_float(float value) { return value; }

template <typename T>
HD T from_float(float value);
template <>
HD float from_float<float>(float value) { return value; }
template <>
HD Half from_float<Half>(float value) { return half_from_float(value); }
