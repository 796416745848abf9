// Blocked products of attention on AMX tiles, with the accuracy of float32.
//
// A float32 is the sum of three bfloat16 (8 + 8 + 8 significant bits), so a product of two is nine
// products of parts. The six with i + j <= 2 are added in float32, smallest first; what is left out
// is below 2^-25 of the product, less than a float32 rounding. A bfloat16 cache has one part and a
// float16 cache two. Every sum is one chain over parts and fixed steps of 32, whatever the number
// of queries beside it, so a query's bits are its own.
#pragma once

#include "amx.h"
#include "segment_attention_tile.h"

#if defined(FASTSI_AMX)

namespace fastsi {
namespace FASTSI_ISA {

constexpr int kStep = 32;       // elements of the inner dimension in a tile row
constexpr int kGroupRows = 16;  // queries that pass through the products together
constexpr int kColumns = 64;    // of a product at most: four tiles of sums
constexpr int kQueryParts = 3;  // also of softmax weights

template <class C>
inline constexpr int kCacheParts = sizeof(C) == 4      ? 3
                                   : __is_same(C, f16) ? 2
                                                       : 1;

FASTSI_INLINE std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

// Bits of the bfloat16 parts of a vector, in the upper half of each lane. Rounded parts leave a
// signed rest, which keeps the products left out small and without bias.
template <int parts>
FASTSI_INLINE void split(vf x, __m512i* part) {
  for (int i = 0; i < parts; ++i) {
    const __m512i bits = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    part[i] = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
    x = x - _mm512_castsi512_ps(part[i]);
  }
}

// The upper halves of two vectors as lanes of two bfloat16: `low` first, `high` second. A row of 32
// elements is stored as the pairs (e, e + 16), on both sides of a product alike.
FASTSI_INLINE __m512i pair_of(__m512i low, __m512i high) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(low, 16), high, mask, 0xF8);  // a | (b & c)
}

FASTSI_INLINE void store_bits(char* to, __m512i bits) { std::memcpy(to, &bits, sizeof bits); }

// Memory of one block of rows, in bytes from a 64-byte boundary.
struct AmxScratch {
  std::int64_t steps;     // of head_dim
  std::int64_t wide;      // head_dim padded to steps
  std::int64_t q_stride;  // bytes from a step of all queries to the next
  char* q;                // [kQueryParts][steps][queries + kGroupRows][64 bytes]
  char* k;                // [parts][steps][kTile / 16][tile]
  char* v;                // [parts][kTile / kStep][wide / 16][tile]
  char* p;                // two of [kQueryParts][kTile / kStep][kGroupRows][64 bytes]
  float* score;           // [queries + kGroupRows][kTile]
  float* out;             // two of [kGroupRows][wide]

  static constexpr std::int64_t kWeightBytes =
      std::int64_t{kQueryParts} * (kTile / kStep) * kGroupRows * kTileRowBytes;

  char* weights_of(std::int64_t group) const { return p + group % 2 * kWeightBytes; }
  float* out_of(std::int64_t group) const { return out + group % 2 * kGroupRows * wide; }

  static std::int64_t bytes(std::int64_t queries, std::int64_t dim, int parts) {
    const std::int64_t wide = round_up(dim, kStep), steps = wide / kStep;
    return kQueryParts * steps * (queries + kGroupRows) * kTileRowBytes +
           parts * steps * (kTile / 16) * kTileBytes +
           parts * (kTile / kStep) * (wide / 16) * kTileBytes + 2 * kWeightBytes +
           ((queries + kGroupRows) * kTile + 2 * kGroupRows * wide) * 4;
  }
  AmxScratch(char* at, std::int64_t queries, std::int64_t dim, int parts) {
    wide = round_up(dim, kStep);
    steps = wide / kStep;
    q_stride = (queries + kGroupRows) * kTileRowBytes;
    const auto take = [&at](std::int64_t n) {
      char* part = at;
      at += n;
      return part;
    };
    q = take(kQueryParts * steps * q_stride);
    k = take(parts * steps * (kTile / 16) * kTileBytes);
    v = take(parts * (kTile / kStep) * (wide / 16) * kTileBytes);
    p = take(2 * kWeightBytes);
    score = reinterpret_cast<float*>(take((queries + kGroupRows) * kTile * 4));
    out = reinterpret_cast<float*>(take(2 * kGroupRows * wide * 4));
  }
};

// Elements [d, d + 16) of a row of `dim`; those past its end are 0.
template <class C>
FASTSI_INLINE vf load_element(const C* row, std::int64_t d, std::int64_t dim) {
  return d < dim ? load_lanes<C>(row + d, dim - d) : vf{};
}

// Splits queries [queries][dim]. The rows past the last are read by tiles that reach beyond it.
FASTSI_INLINE void amx_pack_queries(const float* q, std::int64_t queries, std::int64_t dim,
                                    const AmxScratch& to) {
  for (std::int64_t m = 0; m < queries + kGroupRows; ++m) {
    for (std::int64_t step = 0; step < to.steps; ++step) {
      __m512i low[kQueryParts] = {}, high[kQueryParts] = {};
      if (m < queries) {
        split<kQueryParts>(load_element(q + m * dim, step * kStep, dim), low);
        split<kQueryParts>(load_element(q + m * dim, step * kStep + 16, dim), high);
      }
      for (int i = 0; i < kQueryParts; ++i) {
        store_bits(to.q + (i * to.steps + step) * to.q_stride + m * kTileRowBytes,
                   pair_of(low[i], high[i]));
      }
    }
  }
}

// Keys of n tokens as the right side of q . k: a tile row is a pair of head_dim, its lanes tokens.
template <class C>
void amx_pack_keys(const C* const* key, int n, std::int64_t dim, const AmxScratch& to) {
  constexpr int parts = kCacheParts<C>, blocks = kTile / 16;
  for (int t0 = 0; t0 < static_cast<int>(round_up(n, kStep)); t0 += 16) {
    for (std::int64_t step = 0; step < to.steps; ++step) {
      vf half[2][16];
      for (int i = 0; i < 2; ++i) {
        vf rows[16];
#pragma GCC unroll 16
        for (int t = 0; t < 16; ++t) {
          rows[t] = t0 + t < n ? load_element(key[t0 + t], step * kStep + i * 16, dim) : vf{};
        }
        transpose<float>(rows);
#pragma GCC unroll 16
        for (int t = 0; t < 16; ++t) half[i][t] = rows[t];
      }
      char* tile = to.k + (step * blocks + t0 / 16) * kTileBytes;
      for (int r = 0; r < 16; ++r) {
        __m512i low[parts], high[parts];
        split<parts>(half[0][r], low);
        split<parts>(half[1][r], high);
        for (int i = 0; i < parts; ++i) {
          store_bits(tile + i * to.steps * blocks * kTileBytes + r * kTileRowBytes,
                     pair_of(low[i], high[i]));
        }
      }
    }
  }
}

// Values of n tokens as the right side of p . v: a tile row is a pair of tokens, its lanes
// head_dim.
template <class C>
void amx_pack_values(const C* const* value, int n, std::int64_t dim, const AmxScratch& to) {
  constexpr int parts = kCacheParts<C>, steps = kTile / kStep;
  for (int t0 = 0; t0 < n; t0 += kStep) {
    for (int r = 0; r < 16; ++r) {
      for (std::int64_t d = 0; d < to.wide; d += 16) {
        __m512i low[parts] = {}, high[parts] = {};
        if (t0 + r < n) split<parts>(load_element(value[t0 + r], d, dim), low);
        if (t0 + r + 16 < n) split<parts>(load_element(value[t0 + r + 16], d, dim), high);
        for (int i = 0; i < parts; ++i) {
          store_bits(to.v + ((i * steps + t0 / kStep) * (to.wide / 16) + d / 16) * kTileBytes +
                         r * kTileRowBytes,
                     pair_of(low[i], high[i]));
        }
      }
    }
  }
}

// One side of a product: where its parts and its steps of the inner dimension lie, in bytes.
struct Side {
  const char* data;
  std::int64_t part, step;
};

// out[16][16 * N] = a . b over `steps` steps of 32: b's N tiles of 16 columns lie side by side.
// After each step `between` may do vector work, which runs while the tiles multiply; before each
// product of parts `ask` may ask for memory.
template <int N, int parts, class Between, class Ask>
FASTSI_INLINE void tile_product(Side a, Side b, std::int64_t steps, float* out,
                                std::int64_t out_stride, Between& between, const Ask& ask) {
  tile_fence();
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (N > 2) _tile_zero(2);
  if constexpr (N > 3) _tile_zero(3);
  for (int level = 2; level >= 0; --level) {
    for (int j = 0; j < parts && j <= level; ++j) {
      ask();
      const char* left = a.data + (level - j) * a.part;
      const char* right = b.data + j * b.part;
      for (std::int64_t step = 0; step < steps; ++step, left += a.step, right += b.step) {
        _tile_loadd(4, left, kTileRowBytes);
        _tile_loadd(5, right, kTileRowBytes);
        _tile_loadd(6, right + kTileBytes, kTileRowBytes);
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 6);
        if constexpr (N > 2) {
          _tile_loadd(7, right + 2 * kTileBytes, kTileRowBytes);
          _tile_dpbf16ps(2, 4, 7);
        }
        if constexpr (N > 3) {
          _tile_loadd(5, right + 3 * kTileBytes, kTileRowBytes);
          _tile_dpbf16ps(3, 4, 5);
        }
        between();
      }
    }
  }
  const std::int64_t stride = out_stride * 4;
  _tile_stored(0, out, stride);
  _tile_stored(1, out + 16, stride);
  if constexpr (N > 2) _tile_stored(2, out + 32, stride);
  if constexpr (N > 3) _tile_stored(3, out + 48, stride);
}

// Products of parts that tile_product adds, for a cache of so many parts.
constexpr int products_of(int parts) { return parts == 3 ? 6 : parts == 2 ? 5 : 3; }

// Work on rows 0, 1, ... spread over the steps of a product.
template <class Row>
struct Spread {
  const Row& row;
  std::int64_t rows, steps;
  std::int64_t next = 0, owed = 0;

  void __attribute__((always_inline)) operator()() {
    for (owed += rows; owed >= steps; owed -= steps) row(next++);
  }
  void finish() {
    for (; next < rows; ++next) row(next);
  }
};

// Scores of queries [first, first + kGroupRows) against the packed keys of n tokens; meanwhile
// row(0), ..., row(rows - 1).
template <class C, class Row, class Ask>
FASTSI_INLINE void amx_scores(const AmxScratch& s, std::int64_t first, int n, const Row& row,
                              std::int64_t rows, const Ask& ask) {
  static_assert(kTile == kColumns);
  constexpr int parts = kCacheParts<C>, blocks = kTile / 16;
  Spread<Row> between{row, rows, products_of(parts) * s.steps};
  const Side a{s.q + first * kTileRowBytes, s.steps * s.q_stride, s.q_stride};
  const Side b{s.k, s.steps * blocks * kTileBytes, blocks * kTileBytes};
  float* out = s.score + first * kTile;
  n > kStep ? tile_product<4, parts>(a, b, s.steps, out, kTile, between, ask)
            : tile_product<2, parts>(a, b, s.steps, out, kTile, between, ask);
  between.finish();
}

// Weights of a group times the values of n tokens; meanwhile row(0), ..., row(rows - 1).
template <class C, class Row, class Ask>
FASTSI_INLINE void amx_values(const AmxScratch& s, std::int64_t group, int n, const Row& row,
                              std::int64_t rows, const Ask& ask) {
  constexpr int parts = kCacheParts<C>, steps = kTile / kStep;
  constexpr std::int64_t of_p = kGroupRows * kTileRowBytes;
  const std::int64_t of_v = s.wide / 16 * kTileBytes, used = (n + kStep - 1) / kStep;
  Spread<Row> between{row, rows, (s.wide + kColumns - 1) / kColumns * products_of(parts) * used};
  const Side a{s.weights_of(group), steps * of_p, of_p};
  for (std::int64_t d = 0; d < s.wide; d += kColumns) {
    const Side b{s.v + d / 16 * kTileBytes, steps * of_v, of_v};
    float* out = s.out_of(group) + d;
    s.wide - d > kStep ? tile_product<4, parts>(a, b, used, out, s.wide, between, ask)
                       : tile_product<2, parts>(a, b, used, out, s.wide, between, ask);
  }
  between.finish();
}

// 2^x for x <= 0, and 0 where float32 has only subnormals. Four operations less than exp_neg: few
// fit beside the tiles. Its argument is rounded, which matters only where the result is small.
FASTSI_INLINE vf exp2_neg(vf x) {
  const vf f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  vf p = splat<float>(1.86713007e-3f);     // minimax of 2^f on [0, 1) that is exact at 0
  p = fma(p, f, splat<float>(9.017030322e-3f));
  p = fma(p, f, splat<float>(5.57999131e-2f));
  p = fma(p, f, splat<float>(2.401644502e-1f));
  p = fma(p, f, splat<float>(6.931513118e-1f));
  p = fma(p, f, splat<float>(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat<float>(-126.0f), _CMP_NLT_UQ), p, x);
}

// Turns N vectors of a query's scores into weights; returns their sum, by lanes.
template <int N>
FASTSI_INLINE vf amx_weigh(float* score, float base) {
  const vf log2e = splat<float>(1.44269504f);
  vf total[2];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) {
    const vf p = exp2_neg((load(score + i * 16) - splat(base)) * log2e);
    store(score + i * 16, p);
    total[i & 1] = i < 2 ? p : total[i & 1] + p;
  }
  return total[0] + total[1];
}

// Splits the weights of one query over n tokens for their product with the values.
FASTSI_INLINE void amx_split_weights(const float* weight, int n, char* p) {
  constexpr std::int64_t part = kTile / kStep * kGroupRows * kTileRowBytes;
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  for (int t = 0; t < n; t += kStep) {
    vf low = load(weight + t), high = load(weight + t + 16);
    char* to = p + t / kStep * kGroupRows * kTileRowBytes;
    for (int i = 0; i < kQueryParts; ++i, to += part) {
      // Truncated, not rounded: an operation less, and the values' parts are rounded already.
      const __m512i a = _mm512_castps_si512(low), b = _mm512_castps_si512(high);
      store_bits(to, pair_of(a, b));
      low = low - _mm512_castsi512_ps(_mm512_and_si512(a, mask));
      high = high - _mm512_castsi512_ps(_mm512_and_si512(b, mask));
    }
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi

#endif
