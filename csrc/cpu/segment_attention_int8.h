// Products of a tile in integers, for int8 caches: queries and weights become unsigned bytes, the
// cache's own integers are the other side. Queries carry an offset for that, which sums of the keys
// take off again; weights need none.
//
// vpdpbusd adds four products to 32 bits, so all eight bits are used. vpmaddubsw adds pairs in 16
// bits, at most 2 * 127 * 127 < 2^15, so seven are.
#pragma once

#include "kv_quant.h"
#include "segment_attention_tile.h"

namespace fastsi {
namespace FASTSI_ISA {

#if defined(__AVX2__)
#define FASTSI_ATTENTION_INT8 1
// Inlined into one another, the loops would share registers, and spill.
#define FASTSI_APART static __attribute__((noinline))

constexpr int kIntQueries = FASTSI_VECTOR_BYTES == 64 ? 6 : 4;
constexpr int kIntVectors = FASTSI_VECTOR_BYTES == 64 ? 4 : 2;
// Whether spans of single paths are multiplied so too. With seven bits they are as fast in float32
// (integers take 1.03 times as long, 2026-11-27), which loses nothing.
#if defined(FASTSI_VNNI)
constexpr float kQueryLevels = 127.0f, kWeightLevels = 255.0f;
constexpr int kQueryOffset = 128;
constexpr bool kIntSinglePaths = true;
#else
constexpr float kQueryLevels = 63.0f, kWeightLevels = 127.0f;
constexpr int kQueryOffset = 64;
constexpr bool kIntSinglePaths = false;
#endif

#if defined(__AVX512F__)
using Ints = __m512i;
FASTSI_INLINE Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
FASTSI_INLINE void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
FASTSI_INLINE Ints four_bytes_of(std::int32_t x) { return _mm512_set1_epi32(x); }
FASTSI_INLINE vf float_of(Ints v) { return _mm512_cvtepi32_ps(v); }
FASTSI_INLINE Ints add_four_products(Ints sum, Ints x, Ints w) {
#if defined(FASTSI_VNNI)
  // GCC 12 copies the intrinsic's sum, and for want of registers keeps sums on the stack.
  __asm__("vpdpbusd %[w], %[x], %[sum]" : [sum] "+v"(sum) : [x] "v"(x), [w] "v"(w));
  return sum;
#else
  const Ints pairs = _mm512_maddubs_epi16(x, w);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
#else
using Ints = __m256i;
FASTSI_INLINE Ints load_ints(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
FASTSI_INLINE void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
FASTSI_INLINE Ints four_bytes_of(std::int32_t x) { return _mm256_set1_epi32(x); }
FASTSI_INLINE vf float_of(Ints v) { return _mm256_cvtepi32_ps(v); }
FASTSI_INLINE Ints add_four_products(Ints sum, Ints x, Ints w) {
#if defined(FASTSI_VNNI)
  __asm__("%{vex%} vpdpbusd %[w], %[x], %[sum]" : [sum] "+x"(sum) : [x] "x"(x), [w] "x"(w));
  return sum;
#else
  const Ints pairs = _mm256_maddubs_epi16(x, w);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
#endif

struct IntScratch {
  std::int64_t depth, wide;  // head_dim filled up to whole steps of four and to whole vectors
  std::uint8_t *q, *p;       // [queries][depth], [queries][kTile]
  std::int8_t *k, *v;        // [depth / 4][kTile][4], [kTile / 4][wide][4]
  std::int32_t* start;       // [kTile]: a score begins without what the queries' offset adds
  float *q_scale, *p_scale;  // [queries]; the weights' of a tile
  float *top, *inverse;      // [queries]: a tile's largest score; 1 / p_scale

  static std::int64_t depth_of(std::int64_t dim) { return (dim + 3) / 4 * 4; }
  static std::int64_t wide_of(std::int64_t dim) { return (dim + 15) / 16 * 16; }
  static std::int64_t bytes(std::int64_t queries, std::int64_t dim) {
    const std::int64_t each = depth_of(dim) + kTile + 4 * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t tile = depth_of(dim) + wide_of(dim) + 4;
    return (queries * each + kTile * tile + 63) / 64 * 64;
  }
  IntScratch(void* memory, std::int64_t queries, std::int64_t dim)
      : depth(depth_of(dim)), wide(wide_of(dim)) {
    auto* at = static_cast<std::uint8_t*>(memory);
    const auto take = [&at](std::int64_t n) {
      std::uint8_t* part = at;
      at += n;
      return part;
    };
    k = reinterpret_cast<std::int8_t*>(take(kTile * depth));
    v = reinterpret_cast<std::int8_t*>(take(kTile * wide));
    start = reinterpret_cast<std::int32_t*>(take(kTile * 4));
    q_scale = reinterpret_cast<float*>(take(queries * 4));
    p_scale = reinterpret_cast<float*>(take(queries * 4));
    top = reinterpret_cast<float*>(take(queries * 4));
    inverse = reinterpret_cast<float*>(take(queries * 4));
    q = take(queries * depth);
    p = take(queries * kTile);
  }
};

#if defined(__AVX512F__)
// 64 integers of 0 to 255 as bytes.
FASTSI_INLINE void store_bytes(const vi32 (&n)[4], std::uint8_t* to) {
  const __m512i low = _mm512_packus_epi32(reinterpret_cast<__m512i>(n[0]),
                                          reinterpret_cast<__m512i>(n[1])),
                high = _mm512_packus_epi32(reinterpret_cast<__m512i>(n[2]),
                                           reinterpret_cast<__m512i>(n[3]));
  // Both instructions join what lies in the same 16 bytes of their operands.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  store_ints(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
}
#endif

// Rotated queries [queries][dim] as integers.
FASTSI_APART void int_pack_queries(const float* q, std::int64_t queries, std::int64_t dim,
                                   const IntScratch& to) {
  for (std::int64_t m = 0; m < queries; ++m) {
    std::uint8_t* row = to.q + m * to.depth;
    for (std::int64_t d = dim; d < to.depth; ++d) row[d] = 0;
    to.q_scale[m] = quantise_head(q + m * dim, dim, kQueryLevels, kQueryOffset, row);
  }
}

// The next bytes of a row of which `left` are left, as many as a vector holds; the rest is 0.
template <class V>
FASTSI_INLINE V bytes_of(const std::int8_t* from, std::int64_t left) {
  V v{};
  if (left >= static_cast<std::int64_t>(sizeof v)) {
    std::memcpy(&v, from, sizeof v);
  } else {
    std::memcpy(&v, from, static_cast<std::size_t>(left));
  }
  return v;
}

// Keys of n tokens: four of head_dim side by side, lanes over tokens; the rest is 0.
template <class Between>
FASTSI_APART void int_pack_keys(const std::int8_t* const* key, int n, std::int64_t dim,
                                const IntScratch& to, Between between) {
  constexpr int W = kLanes<float>;
  for (int t = 0; t < n; t += W) {
    for (std::int64_t d = 0; d < dim; d += 4 * W) {
      vf v[W];
      if (n - t >= W && dim - d >= 4 * W) {
        for (int i = 0; i < W; ++i) std::memcpy(&v[i], key[t + i] + d, sizeof v[i]);
      } else {
        for (int i = 0; i < W; ++i) {
          v[i] = t + i < n ? bytes_of<vf>(key[t + i] + d, dim - d) : vf{};
        }
      }
      transpose<float>(v);
      for (int i = 0; i < W && d + 4 * i < to.depth; ++i) {
        std::memcpy(to.k + ((d / 4 + i) * kTile + t) * 4, &v[i], sizeof v[i]);
      }
      between();
    }
    Ints sum{};
    for (std::int64_t d = 0; d < to.depth; d += 4) {
      sum = add_four_products(sum,
                              four_bytes_of(static_cast<std::int32_t>(kQueryOffset * 0x01010101u)),
                              load_ints(to.k + (d * kTile + t * 4)));
    }
    store_ints(to.start + t, reinterpret_cast<Ints>(-reinterpret_cast<vi32>(sum)));
  }
}

// Values of n tokens: four tokens side by side, lanes over head_dim; the rest is 0.
template <class Between>
FASTSI_APART void int_pack_values(const std::int8_t* const* value, int n, std::int64_t dim,
                                  const IntScratch& to, Between between) {
  for (int t = 0; t < n; t += 4) {
    between();
    std::int8_t* out = to.v + t * to.wide;
    std::int64_t d = 0;
#if defined(__AVX512F__)
    for (; n - t >= 4 && d + 64 <= dim; d += 64) {
      // Bytes are joined within 16-byte parts; then parts go to their place.
      const __m512i row[4] = {load_ints(value[t] + d), load_ints(value[t + 1] + d),
                              load_ints(value[t + 2] + d), load_ints(value[t + 3] + d)};
      const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]),
                    high01 = _mm512_unpackhi_epi8(row[0], row[1]),
                    low23 = _mm512_unpacklo_epi8(row[2], row[3]),
                    high23 = _mm512_unpackhi_epi8(row[2], row[3]);
      const __m512i a = _mm512_unpacklo_epi16(low01, low23),
                    b = _mm512_unpackhi_epi16(low01, low23),
                    c = _mm512_unpacklo_epi16(high01, high23),
                    e = _mm512_unpackhi_epi16(high01, high23);
      const __m512i ab_low = _mm512_shuffle_i32x4(a, b, 0x44),
                    ab_high = _mm512_shuffle_i32x4(a, b, 0xEE),
                    ce_low = _mm512_shuffle_i32x4(c, e, 0x44),
                    ce_high = _mm512_shuffle_i32x4(c, e, 0xEE);
      store_ints(out + d * 4, _mm512_shuffle_i32x4(ab_low, ce_low, 0x88));
      store_ints(out + d * 4 + 64, _mm512_shuffle_i32x4(ab_low, ce_low, 0xDD));
      store_ints(out + d * 4 + 128, _mm512_shuffle_i32x4(ab_high, ce_high, 0x88));
      store_ints(out + d * 4 + 192, _mm512_shuffle_i32x4(ab_high, ce_high, 0xDD));
    }
#endif
    for (; d < dim; d += 16) {
      __m128i row[4];
      for (int i = 0; i < 4; ++i) {
        row[i] = t + i < n ? bytes_of<__m128i>(value[t + i] + d, dim - d) : _mm_setzero_si128();
      }
      const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]),
                    high01 = _mm_unpackhi_epi8(row[0], row[1]),
                    low23 = _mm_unpacklo_epi8(row[2], row[3]),
                    high23 = _mm_unpackhi_epi8(row[2], row[3]);
      const __m128i four[4] = {_mm_unpacklo_epi16(low01, low23), _mm_unpackhi_epi16(low01, low23),
                               _mm_unpacklo_epi16(high01, high23),
                               _mm_unpackhi_epi16(high01, high23)};
      std::memcpy(out + d * 4, four, sizeof four);
    }
  }
}

// sum[m][j] += x[m] . panel over `steps` steps of four bytes; lanes of a step are `stride` bytes
// apart from those of the next.
template <int M, int NV>
FASTSI_INLINE void int_dot(const std::uint8_t* x, std::int64_t x_stride, const std::int8_t* panel,
                           std::int64_t stride, std::int64_t steps, Ints (&sum)[M][NV]) {
  for (std::int64_t step = 0; step < steps; ++step) {
    Ints w[NV];
    for (int j = 0; j < NV; ++j) {
      w[j] = load_ints(panel + step * stride + j * static_cast<std::int64_t>(sizeof(Ints)));
    }
    for (int m = 0; m < M; ++m) {
      std::int32_t four;
      std::memcpy(&four, x + m * x_stride + step * 4, sizeof four);
      const Ints value = four_bytes_of(four);
      for (int j = 0; j < NV; ++j) sum[m][j] = add_four_products(sum[m][j], value, w[j]);
    }
  }
}

// Scores of M queries from the m-th on against the packed keys of n tokens.
template <int M>
FASTSI_APART void int_scores(const IntScratch& s, std::int64_t m, int n, const float* k_scale,
                             float* score) {
  constexpr int W = kLanes<float>, NV = kIntVectors;
  for (int t = 0; t < n; t += NV * W) {
    Ints sum[M][NV];
    for (int j = 0; j < NV; ++j) {
      const Ints start = load_ints(s.start + t + j * W);
      for (int i = 0; i < M; ++i) sum[i][j] = start;
    }
    int_dot<M, NV>(s.q + m * s.depth, s.depth, s.k + t * 4, kTile * 4, s.depth / 4, sum);
    for (int i = 0; i < M; ++i) {
      const vf scale = splat<float>(s.q_scale[m + i]);
      for (int j = 0; j < NV; ++j) {
        const vf factor = scale * load<float>(k_scale + t + j * W);
        store<float>(score + i * kTile + t + j * W, float_of(sum[i][j]) * factor);
      }
    }
  }
}

// Natural logarithms of the scales of a tile's values, too large by at most 0.06, from a straight
// line between powers of two; +inf for a scale that is not finite, so that it is the largest.
FASTSI_APART void int_log_scales(const float* scale, float* log) {
  for (int t = 0; t < kTile; t += kLanes<float>) {
    const vf v = load<float>(scale + t);
    Ints bits;
    std::memcpy(&bits, &v, sizeof bits);
    // exponent + 127 + mantissa, at most 0.0861 below the logarithm to base 2, and a margin.
    const vf binary = float_of(bits) * splat<float>(0x1p-23f) - splat<float>(127.0f - 0.0862f);
    const vf natural = binary * splat<float>(0.69314718f);
    store<float>(log + t, v < splat<float>(INFINITY) ? natural : splat<float>(INFINITY));
  }
}

// The largest of a query's n scores, which are filled up to whole vectors with -inf, and the
// largest after the logarithms of the values' scales are added: of what a value is multiplied with.
FASTSI_INLINE void int_maxima(float* score, int n, const float* log_scale, float* top,
                              float* product) {
  constexpr int W = kLanes<float>;
  for (int t = n; t % W != 0; ++t) score[t] = -INFINITY;
  vf most = splat<float>(-INFINITY), most_product = most;
  for (int t = 0; t < n; t += W) {
    const vf x = load<float>(score + t);
    most = max(x, most);
    most_product = max(x + load<float>(log_scale + t), most_product);
  }
  *top = max_of<float>(most);
  *product = max_of<float>(most_product);
}

// Raises the maxima of `queries` queries, from the m-th on, by those of a tile, and finds how their
// weights become integers: no weight times its value's scale is above exp(product - maximum).
// `product` becomes the factor by which what was added before shrinks.
FASTSI_APART void int_raise_maxima(std::int64_t queries, std::int64_t m, const IntScratch& s,
                                   float* top, float* product) {
  for (std::int64_t i = 0; i < queries; i += kLanes<float>) {
    const std::int64_t left = queries - i;
    const int lanes = lanes_of<float>(left);
    const vf now = load_lanes<float>(s.top + m + i, left);
    const vf before = load_lanes<float>(top + i, left), after = max(now, before);
    // A query that has seen nothing yet: a finite base makes every weight exp(-inf) = 0, not NaN.
    const vf base = after == splat<float>(-INFINITY) ? vf{} : after;
    // Above 0 where scales are above 1; the largest scale's logarithm is 84, far from overflow.
    const vf bound = exp_neg(load_lanes<float>(product + i, left) - base);
    const vf none{}, least = splat<float>(0x1p-120f);
    const vf inverse = bound < least ? none : splat<float>(kWeightLevels) / bound;
    const vf scale = bound < least ? none : bound * splat<float>(1.0f / kWeightLevels);
    store_as<float>(top + i, after, lanes);
    store_as<float>(product + i, exp_neg(before - base), lanes);
    store_as<float>(s.inverse + m + i, bound < splat<float>(INFINITY) ? inverse : none, lanes);
    store_as<float>(s.p_scale + m + i, scale, lanes);
  }
}

// 2^x for x <= 0, with a relative error below 4e-6 (and that of x): of what becomes integers of 8
// bits. 0 below 2^-126 or less, NaN for NaN. A minimax polynomial of 2^f on [0, 1), or [-1/2, 1/2].
FASTSI_INLINE vf exp2_weight(vf x) {
#if defined(__AVX512F__)
  const vf f = _mm512_reduce_ps(x, 0x09);  // x less its floor; 0 for -inf
  vf p = splat<float>(1.353416778e-2f);
  p = fma(p, f, splat<float>(5.201146007e-2f));
  p = fma(p, f, splat<float>(2.414427549e-1f));
  p = fma(p, f, splat<float>(6.930038333e-1f));
  p = fma(p, f, splat<float>(1.000002623f));
  return _mm512_scalef_ps(p, x);  // p * 2^floor(x)
#else
  const vf magic = splat<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = x + magic, f = x - (shifted - magic);
  vf p = splat<float>(9.570102207e-3f);
  p = fma(p, f, splat<float>(5.591785908e-2f));
  p = fma(p, f, splat<float>(2.402474433e-1f));
  p = fma(p, f, splat<float>(6.931217909e-1f));
  p = fma(p, f, splat<float>(9.999992847e-1f));
  vu32 bits, power;
  std::memcpy(&power, &shifted, sizeof power);
  std::memcpy(&bits, &p, sizeof bits);
  bits += power << 23;  // the integer's low bits are added to the exponent
  vf y;
  std::memcpy(&y, &bits, sizeof y);
  return x < splat<float>(-125.0f) ? vf{} : y;
#endif
}

FASTSI_INLINE vf min(vf a, vf b) {  // b where either is NaN
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#else
  return _mm256_min_ps(a, b);
#endif
}

// Turns n scores of a query into integer weights of the values, scales of the values included;
// returns the sum of the weights without these, by lanes.
FASTSI_INLINE vf int_weigh(const float* score, float base, float inverse, const float* v_scale,
                           int n, std::uint8_t* p) {
  constexpr int W = kLanes<float>;
  constexpr float kLog2e = 1.44269504f;
  const vf factor = splat<float>(kLog2e), offset = splat<float>(-kLog2e * base);
  const vf grain = splat<float>(inverse), most = splat<float>(kWeightLevels);
  vf total{};
  if (!(inverse > 0)) {  // scales that may be NaN, which have no integer
    for (int t = 0; t < n; t += W) {
      total += exp2_weight(fma(load<float>(score + t), factor, offset));
      store_narrow(vi32{}, p + t);
    }
    return total;
  }
  const auto integers = [&](int t) {
    const vf weight = exp2_weight(fma(load<float>(score + t), factor, offset));
    total += weight;
    // Scores of 30,000 and more have so few digits behind the point that the bound may be too low.
    return nearest(min(most, weight * (load<float>(v_scale + t) * grain)));
  };
#if defined(__AVX512F__)
  static_assert(kTile == 4 * W);
  if (n > 3 * W) {  // a whole tile, or filled up to one
    vi32 four[4];
    for (int i = 0; i < 4; ++i) four[i] = integers(i * W);
    return store_bytes(four, p), total;
  }
#endif
  for (int t = 0; t < n; t += W) store_narrow(integers(t), p + t);
  return total;
}

// acc[i] = acc[i] * rescale[i] + weights . values, for M queries from the m-th on.
template <int M>
FASTSI_APART void int_values(const IntScratch& s, std::int64_t m, int n, std::int64_t acc_stride,
                             const float* rescale, float* acc) {
  constexpr int W = kLanes<float>;
  const auto columns = [&](auto vectors, std::int64_t d) {
    constexpr int NV = decltype(vectors)::value;
    Ints sum[M][NV] = {};
    int_dot<M, NV>(s.p + m * kTile, kTile, s.v + d * 4, s.wide * 4, (n + 3) / 4, sum);
#pragma GCC unroll 8  // as a loop it would take the sums from memory
    for (int i = 0; i < M; ++i) {
      const vf scale = splat<float>(s.p_scale[m + i]), keep = splat<float>(rescale[i]);
      for (int j = 0; j < NV; ++j) {
        float* to = acc + i * acc_stride + d + j * W;
        store<float>(to, fma(float_of(sum[i][j]), scale, load<float>(to) * keep));
      }
    }
  };
  std::int64_t d = 0;
  for (; d + kIntVectors * W <= acc_stride; d += kIntVectors * W) columns(Count<kIntVectors>{}, d);
  for (; d < acc_stride; d += W) columns(Count<1>{}, d);
}

#endif

}  // namespace FASTSI_ISA
}  // namespace fastsi
