// Steps of a Hadamard rotation within a vector, and rounding to integers of a byte or two with a
// scale.
#pragma once

#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

#if defined(__AVX512F__)
// Lane i becomes lane (i ^ S) + lane i, or their difference in the upper lane of each pair: fused
// with a factor of 1 or -1, which rounds as a plain addition does.
template <int S>
FASTSI_INLINE vf butterfly(vf v) {
  constexpr int kUpper = S == 1 ? 0xAAAA : S == 2 ? 0xCCCC : S == 4 ? 0xF0F0 : 0xFF00;
  const __m512 sign = _mm512_mask_blend_ps(kUpper, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
  __m512 other;
  if constexpr (S == 1) other = _mm512_permute_ps(v, 0xB1);
  if constexpr (S == 2) other = _mm512_permute_ps(v, 0x4E);
  if constexpr (S == 4) other = _mm512_shuffle_f32x4(v, v, 0xB1);
  if constexpr (S == 8) other = _mm512_shuffle_f32x4(v, v, 0x4E);
  return _mm512_fmadd_ps(v, sign, other);
}
#elif defined(__AVX2__)
template <int S>
FASTSI_INLINE vf butterfly(vf v) {
  constexpr int kUpper = S == 1 ? 0xAA : S == 2 ? 0xCC : 0xF0;
  const __m256 sign = _mm256_blend_ps(_mm256_set1_ps(1.0f), _mm256_set1_ps(-1.0f), kUpper);
  __m256 other;
  if constexpr (S == 1) other = _mm256_permute_ps(v, 0xB1);
  if constexpr (S == 2) other = _mm256_permute_ps(v, 0x4E);
  if constexpr (S == 4) other = _mm256_permute2f128_ps(v, v, 0x01);
  return _mm256_fmadd_ps(v, sign, other);
}
#else
template <int S>
FASTSI_INLINE vf butterfly(vf v) {
  if constexpr (S == 2) return vf{v[0] + v[2], v[1] + v[3], v[0] - v[2], v[1] - v[3]};
  return vf{v[0] + v[1], v[0] - v[1], v[2] + v[3], v[2] - v[3]};
}
#endif

// Nearest integers, ties to even, of values of at most 2^22 in magnitude.
FASTSI_INLINE vi32 nearest(vf x) {
#if defined(__AVX512F__)
  return reinterpret_cast<vi32>(_mm512_cvtps_epi32(x));
#elif defined(__AVX2__)
  return reinterpret_cast<vi32>(_mm256_cvtps_epi32(x));
#else
  const vf shifted = x + splat<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  vi32 n;
  std::memcpy(&n, &shifted, sizeof n);
  return n - 0x4B400000;
#endif
}

template <class T>
FASTSI_INLINE void store_narrow(vi32 n, T* to) {
#if defined(__AVX512F__)
  const __m512i wide = reinterpret_cast<__m512i>(n);
  if constexpr (sizeof(T) == 1) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(wide));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(wide));
  }
#elif defined(__AVX2__)
  const __m256i wide = reinterpret_cast<__m256i>(n);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  auto* at = reinterpret_cast<__m128i*>(to);
  if constexpr (sizeof(T) == 2) {
    _mm_storeu_si128(at, words);
  } else {
    constexpr bool kSigned = T(-1) < T(0);
    _mm_storel_epi64(at, kSigned ? _mm_packs_epi16(words, words) : _mm_packus_epi16(words, words));
  }
#else
  for (int i = 0; i < kLanes<float>; ++i) to[i] = static_cast<T>(n[i]);
#endif
}

struct Grain {
  float inverse, scale;  // integer = value * inverse; value = integer * scale
};

// Of values whose largest magnitude is `top`, for `levels` integers on either side of 0. Below
// 2^-120 all are 0; if one is not finite, the scale is NaN. `divisor` takes the factor of a
// rotation.
FASTSI_INLINE Grain grain_of(float top, float levels, float divisor) {
  if (!(top < INFINITY)) return {0.0f, NAN};
  if (top < 0x1p-120f) return {0.0f, 0.0f};
  return {levels / top, top / (levels * divisor)};
}

// Magnitudes as bits, which are in the floats' order; a NaN is the largest.
FASTSI_INLINE float largest_magnitude(const float* x, std::int64_t count) {
  constexpr int W = kLanes<float>;
  vi32 top{};
  for (std::int64_t i = 0; i < count; i += W) {
    const vf v = load_lanes<float>(x + i, count - i);
    vi32 bits;
    std::memcpy(&bits, &v, sizeof bits);
    bits &= 0x7FFFFFFF;
    top = bits > top ? bits : top;
  }
  std::int32_t best = 0;
  for (int i = 0; i < W; ++i) best = top[i] > best ? top[i] : best;
  float largest;
  std::memcpy(&largest, &best, sizeof largest);
  return largest;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
