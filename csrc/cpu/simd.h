// Vectors of the instruction set this file is compiled for (FASTSI_ISA: one of Isa, isa.h).
//
// Kernels include this header alone and use no other inline library code: a shared inline function
// compiled here with wide instructions could be the copy the linker keeps for everybody.
// Multiply-adds are explicit and compilers may not fuse others (-ffp-contract=off), so that a value
// has the same bits in a vectorised body and in its remainder.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fastsi {
namespace FASTSI_ISA {

#if defined(__AVX512F__)
#define FASTSI_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTSI_VECTOR_BYTES 32
#else
#define FASTSI_VECTOR_BYTES 16
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define FASTSI_VNNI 1
#endif
#define FASTSI_INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(FASTSI_VECTOR_BYTES)));
typedef double vd __attribute__((vector_size(FASTSI_VECTOR_BYTES)));
typedef std::int32_t vi32 __attribute__((vector_size(FASTSI_VECTOR_BYTES)));
typedef std::uint32_t vu32 __attribute__((vector_size(FASTSI_VECTOR_BYTES)));
typedef std::int64_t vi64 __attribute__((vector_size(FASTSI_VECTOR_BYTES)));

// Storage types without arithmetic.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

// Vec<T>: the vector of arithmetic type T. Arith<S>: the type in which storage type S is computed.
template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  using type = vf;
  using mask = vi32;
};
template <>
struct VecOf<double> {
  using type = vd;
  using mask = vi64;
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
using Mask = typename VecOf<T>::mask;
template <class T>
inline constexpr int kLanes = FASTSI_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class S>
struct ArithOf {
  using type = float;
};
template <>
struct ArithOf<double> {
  using type = double;
};
template <class S>
using Arith = typename ArithOf<S>::type;

template <class T>
FASTSI_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
FASTSI_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
FASTSI_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};  // x - 0, not x + 0: keeps the sign of -0
}

FASTSI_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
FASTSI_INLINE vd fma(vd a, vd b, vd c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}

// max(a, b) is b where either is NaN.
FASTSI_INLINE vf max(vf a, vf b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
FASTSI_INLINE vd max(vd a, vd b) {
#if defined(__AVX512F__)
  return _mm512_max_pd(a, b);
#elif defined(__AVX2__)
  return _mm256_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}

// Folds a vector's halves until one lane is left; the order depends on the width alone.
template <class T, int half, class Op>
FASTSI_INLINE Vec<T> fold_half(Vec<T> v, const Op& op) {
  if constexpr (half == 0) {
    return v;
  } else {
    Mask<T> high{};
    for (int i = 0; i < half; ++i) high[i] = i + half;
    return fold_half<T, half / 2>(op(v, __builtin_shuffle(v, high)), op);
  }
}
template <class T>
FASTSI_INLINE T sum_of(Vec<T> v) {
  return fold_half<T, kLanes<T> / 2>(v, [](Vec<T> a, Vec<T> b) { return a + b; })[0];
}
template <class T>
FASTSI_INLINE T max_of(Vec<T> v) {
  return fold_half<T, kLanes<T> / 2>(v, [](Vec<T> a, Vec<T> b) { return max(a, b); })[0];
}

// One bit per lane, lane 0 lowest, set where the mask is.
FASTSI_INLINE unsigned bits_of(vi32 mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<float>; ++i) bits |= mask[i] ? 1u << i : 0u;
  return bits;
#endif
}
FASTSI_INLINE unsigned bits_of(vi64 mask) {
#if defined(__AVX512F__)
  return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask)));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<double>; ++i) bits |= mask[i] ? 1u << i : 0u;
  return bits;
#endif
}

// Adds the lanes of x to float64 sums; which sum a lane goes to depends on the width alone.
FASTSI_INLINE vd add_to(vd sum, vd x) { return sum + x; }
FASTSI_INLINE vd add_to(vd sum, vf x) {
#if defined(__AVX512F__)
  const vd low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
  return sum + (low + _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
#elif defined(__AVX2__)
  const vd low = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
  return sum + (low + _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
#else
  for (int i = 0; i < kLanes<double>; ++i) {
    sum[i] += static_cast<double>(x[i]) + static_cast<double>(x[i + kLanes<double>]);
  }
  return sum;
#endif
}

// --- storage types -----------------------------------------------------------------------------

FASTSI_INLINE float to_arith(float x) { return x; }
FASTSI_INLINE double to_arith(double x) { return x; }
FASTSI_INLINE float to_arith(std::int8_t x) { return x; }
FASTSI_INLINE float to_arith(bf16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}
FASTSI_INLINE float to_arith(f16 x) {
  // Scaling by 2^112 moves a half's exponent to a float's, subnormals included.
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  std::uint32_t bits = static_cast<std::uint32_t>(x.bits & 0x7FFFu) << 13;
  if ((x.bits & 0x7C00u) == 0x7C00u) {
    bits |= 0x7F800000u;
  } else {
    float scaled;
    std::memcpy(&scaled, &bits, sizeof scaled);
    scaled *= 0x1p112f;
    std::memcpy(&bits, &scaled, sizeof bits);
  }
  bits |= sign;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

FASTSI_INLINE void from_arith(float x, float* p) { *p = x; }
FASTSI_INLINE void from_arith(double x, double* p) { *p = x; }
FASTSI_INLINE void from_arith(float x, bf16* p) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);  // nearest, ties to even
  p->bits = x != x ? 0x7FC0u : static_cast<std::uint16_t>(rounded >> 16);
}
FASTSI_INLINE void from_arith(float x, f16* p) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7FFFFFFFu;
  std::uint32_t half;
  if (bits > 0x7F800000u) {
    half = 0x7E00u;
  } else if (bits >= 0x477FF000u) {  // rounds to 65536 or more
    half = 0x7C00u;
  } else if (bits < 0x38800000u) {  // below the least normal half: let an addition round
    float y;
    std::memcpy(&y, &bits, sizeof y);
    y += 0.5f;
    std::memcpy(&bits, &y, sizeof bits);
    half = bits - 0x3F000000u;
  } else {
    half = (bits - 0x38000000u + 0xFFFu + ((bits >> 13) & 1u)) >> 13;
  }
  p->bits = static_cast<std::uint16_t>(sign | half);
}

// The first n elements; the other lanes are 0.
template <class S>
FASTSI_INLINE Vec<Arith<S>> load_part(const S* p, int n) {
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  }
#endif
  Vec<Arith<S>> v{};
  for (int i = 0; i < n; ++i) v[i] = to_arith(p[i]);
  return v;
}
// kLanes<Arith<S>> elements of storage type S.
template <class S>
FASTSI_INLINE Vec<Arith<S>> load_as(const S* p) {
  using T = Arith<S>;
  if constexpr (sizeof(S) == sizeof(T)) {
    return load<T>(reinterpret_cast<const T*>(p));
  } else if constexpr (sizeof(S) == 1) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    return load_part<S>(p, kLanes<T>);
#endif
  } else {
#if defined(__AVX512F__)
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (__is_same(S, f16)) return _mm512_cvtph_ps(raw);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
#elif defined(__AVX2__)
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (__is_same(S, f16)) return _mm256_cvtph_ps(raw);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
#else
    Vec<T> v{};
    for (int i = 0; i < kLanes<T>; ++i) v[i] = to_arith(p[i]);
    return v;
#endif
  }
}
// How many of `left` elements the next vector holds.
template <class T>
FASTSI_INLINE int lanes_of(std::int64_t left) {
  return left < kLanes<T> ? static_cast<int>(left) : kLanes<T>;
}
template <class S>
FASTSI_INLINE Vec<Arith<S>> load_lanes(const S* p, std::int64_t left) {
  return left < kLanes<Arith<S>> ? load_part<S>(p, static_cast<int>(left)) : load_as<S>(p);
}
template <class S>
FASTSI_INLINE void store_as(S* p, Vec<Arith<S>> v, int n) {
  if constexpr (sizeof(S) == sizeof(Arith<S>)) {
    if (n == kLanes<Arith<S>>) return store<Arith<S>>(reinterpret_cast<Arith<S>*>(p), v);
  }
#if defined(__AVX512F__)
  if constexpr (__is_same(S, float)) {
    return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
  }
#endif
  for (int i = 0; i < n; ++i) from_arith(v[i], p + i);
}

// --- transcendental functions ------------------------------------------------------------------

// exp(x) for x <= 0, with a relative error below 2e-7; 0 below -87.3 (the least normal float),
// NaN for NaN, and exactly 1 for 0. As good for x up to 88.
FASTSI_INLINE vf exp_neg(vf x) {
  const vf least = splat<float>(-87.33654f);
  const vf magic = splat<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf log2e = splat<float>(1.44269504f);
  const vf shifted = fma(x, log2e, magic);
  const vf n = shifted - magic;
  // x = (n + f) * log(2) with |f| <= 1/2, without cancellation.
#if defined(__FMA__)
  vf f = fma(x, log2e, -n);
  f = fma(x, splat<float>(1.925963033e-8f), f);
#else
  vf f = fma(n, splat<float>(-0.693359375f), x);
  f = fma(n, splat<float>(2.12194440e-4f), f) * log2e;
#endif
  vf p = splat<float>(1.326472731e-3f);  // minimax of 2^f that is exact at 0
  p = fma(p, f, splat<float>(9.671512991e-3f));
  p = fma(p, f, splat<float>(5.550733581e-2f));
  p = fma(p, f, splat<float>(2.402224243e-1f));
  p = fma(p, f, splat<float>(6.931470037e-1f));
  p = fma(p, f, splat<float>(1.0f));
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), p, n);
#else
  vu32 power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power << 23) + 0x3F800000u;  // the integer's low bits become the exponent of 2^n
  vf scale;
  std::memcpy(&scale, &power, sizeof scale);
  const vf y = p * scale;
  return x < least ? vf{} : y;
#endif
}
FASTSI_INLINE vd exp_neg(vd x) {
  vd y{};
  for (int i = 0; i < kLanes<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}

FASTSI_INLINE vf tanh(vf x) {
  vi32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  const vi32 sign = bits & static_cast<std::int32_t>(0x80000000u);
  bits &= 0x7FFFFFFF;
  vf a;
  std::memcpy(&a, &bits, sizeof a);
  const vf z = a * a;
  vf p = splat<float>(-5.70498872745e-3f);
  p = fma(p, z, splat<float>(2.06390887954e-2f));
  p = fma(p, z, splat<float>(-5.37397155531e-2f));
  p = fma(p, z, splat<float>(1.33314422036e-1f));
  p = fma(p, z, splat<float>(-3.33332819422e-1f));
  const vf small = fma(p * z, a, a);
  const vf e = exp_neg(-2.0f * a);
  const vf large = (1.0f - e) / (1.0f + e);
  vf y = a < splat<float>(0.625f) ? small : large;  // a NaN takes the large branch and stays NaN
  vi32 result;
  std::memcpy(&result, &y, sizeof result);
  result |= sign;
  std::memcpy(&y, &result, sizeof y);
  return y;
}
FASTSI_INLINE vd tanh(vd x) {
  vd y{};
  for (int i = 0; i < kLanes<double>; ++i) y[i] = std::tanh(x[i]);
  return y;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
