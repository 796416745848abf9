// Products and softmax of a tile of tokens with vector multiply-adds.
#pragma once

#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

constexpr int kTile = 64;  // tokens
// Queries and vectors per register tile: queries * vectors accumulators, one vector row of the
// other operand, and a broadcast fit the register file (32 registers, or 16).
constexpr int kQueries = FASTSI_VECTOR_BYTES == 16 ? 4 : 6;
constexpr int kVectors = FASTSI_VECTOR_BYTES == 64 ? 4 : 2;

// One butterfly stage of a square transpose in registers: swaps blocks of `step` lanes.
template <class T, int step>
FASTSI_INLINE void transpose_stage(Vec<T>* v) {
  constexpr int W = kLanes<T>;
  Mask<T> low, high;
  for (int i = 0; i < W; ++i) {
    low[i] = i & step ? W + i - step : i;
    high[i] = i & step ? W + i : i + step;
  }
  for (int i = 0; i < W; ++i) {
    if (i & step) continue;
    const Vec<T> a = v[i], b = v[i + step];
    v[i] = __builtin_shuffle(a, b, low);
    v[i + step] = __builtin_shuffle(a, b, high);
  }
}
template <class T>
FASTSI_INLINE void transpose(Vec<T>* v) {
  transpose_stage<T, 1>(v);
  if constexpr (kLanes<T> > 2) transpose_stage<T, 2>(v);
  if constexpr (kLanes<T> > 4) transpose_stage<T, 4>(v);
  if constexpr (kLanes<T> > 8) transpose_stage<T, 8>(v);
}

// Elements d to d + W of the keys of `tokens` tokens, transposed; the rest of a vector is 0. Not
// `whole`: the head has fewer of them.
template <class S, bool whole>
FASTSI_INLINE void pack_block(const S* const* key, int tokens, std::int64_t d, std::int64_t dim,
                              Arith<S>* k) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const int lanes = whole ? W : lanes_of<T>(dim - d);
  Vec<T> v[W];
  // Unrolled: in a loop of unknown length the vectors would pass through memory.
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    v[i] = i < tokens ? load_lanes<S>(key[i] + d, whole ? W : dim - d) : Vec<T>{};
  }
  transpose<T>(v);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if (i < lanes) store<T>(k + (d + i) * kTile, v[i]);
  }
}

// Writes the keys of n tokens as k[d][t], t up to the next multiple of a vector; the rest is 0.
// Here and below, between() is called every few products.
template <class S, class Between>
void pack_keys(const S* const* key, int n, std::int64_t dim, Arith<S>* k, const Between& between) {
  constexpr int W = kLanes<Arith<S>>;
  for (int t = 0; t < n; t += W) {
    const int tokens = lanes_of<Arith<S>>(n - t);
    for (std::int64_t d = 0; d < dim; d += W) {
      if (dim - d < W) {
        pack_block<S, false>(key + t, tokens, d, dim, k + t);
      } else if (tokens < W) {
        pack_block<S, true>(key + t, tokens, d, dim, k + t);
      } else {
        pack_block<S, true>(key + t, W, d, dim, k + t);
      }
      between();
    }
  }
}

// score[m][t] = q[m] . k[.][t] for `queries` queries and NV vectors of tokens, in chains of at most
// kScoreChain that are then added: one chain over a large head loses twice as much to rounding.
constexpr std::int64_t kScoreChain = 64;
template <class T, int M, int NV, class Between>
FASTSI_INLINE void score_tile(const T* q, const T* k, std::int64_t dim, T* score,
                              const Between& between) {
  constexpr int W = kLanes<T>;
  for (std::int64_t d = 0; d < dim;) {
    const bool fresh = d == 0;
    const std::int64_t end = dim - d < kScoreChain ? dim : d + kScoreChain;
    Vec<T> acc[M][NV] = {};
    for (; d < end; ++d) {
      Vec<T> key[NV];
      for (int j = 0; j < NV; ++j) key[j] = load<T>(k + d * kTile + j * W);
      for (int m = 0; m < M; ++m) {
        const Vec<T> x = splat<T>(q[m * dim + d]);
        for (int j = 0; j < NV; ++j) acc[m][j] = fma(x, key[j], acc[m][j]);
      }
      between();
    }
    for (int m = 0; m < M; ++m) {
      for (int j = 0; j < NV; ++j) {
        T* to = score + m * kTile + j * W;
        store<T>(to, fresh ? acc[m][j] : load<T>(to) + acc[m][j]);
      }
    }
  }
}

template <class T, int M, class Between>
void score_queries(const T* q, const T* k, std::int64_t dim, int n, T* score,
                   const Between& between) {
  constexpr int W = kLanes<T>;
  int t = 0;
  for (; t + (kVectors - 1) * W < n; t += kVectors * W) {
    score_tile<T, M, kVectors>(q, k + t, dim, score + t, between);
  }
  // What is left at once: few queries alone would wait for each other's sums.
  if constexpr (kVectors == 4) {
    if (t + 2 * W < n) return score_tile<T, M, 3>(q, k + t, dim, score + t, between);
    if (t + W < n) return score_tile<T, M, 2>(q, k + t, dim, score + t, between);
  }
  for (; t < n; t += W) score_tile<T, M, 1>(q, k + t, dim, score + t, between);
}

// acc[m] = acc[m] * rescale[m] + sum over t of p[m][t] * value[t], for NV vectors of head_dim.
template <class T, int M, int NV, class Between>
FASTSI_INLINE void value_tile(const T* p, const T* const* value, int n, std::int64_t d,
                              std::int64_t wide, const T* rescale, T* acc, const Between& between) {
  constexpr int W = kLanes<T>;
  Vec<T> part[M][NV] = {};
  for (int t = 0; t < n; ++t) {
    Vec<T> x[NV];
    for (int j = 0; j < NV; ++j) x[j] = load<T>(value[t] + d + j * W);
    for (int m = 0; m < M; ++m) {
      const Vec<T> weight = splat<T>(p[m * kTile + t]);
      for (int j = 0; j < NV; ++j) part[m][j] = fma(weight, x[j], part[m][j]);
    }
    between();
  }
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < NV; ++j) {
      T* to = acc + m * wide + d + j * W;
      store<T>(to, fma(load<T>(to), splat<T>(rescale[m]), part[m][j]));
    }
  }
}

template <class T, int M, class Between>
void value_queries(const T* p, const T* const* value, int n, std::int64_t wide, const T* rescale,
                   T* acc, const Between& between) {
  constexpr int W = kLanes<T>;
  std::int64_t d = 0;
  for (; d + kVectors * W <= wide; d += kVectors * W) {
    value_tile<T, M, kVectors>(p, value, n, d, wide, rescale, acc, between);
  }
  for (; d < wide; d += W) value_tile<T, M, 1>(p, value, n, d, wide, rescale, acc, between);
}

template <int M>
struct Count {
  static constexpr int value = M;
};
template <int M, class Run>
FASTSI_INLINE void last_group(std::int64_t queries, std::int64_t m, const Run& run) {
  if constexpr (M > 0) {
    if (queries - m == M) return run(Count<M>{}, m);
    last_group<M - 1>(queries, m, run);
  }
}
// Calls run(std::integral-like constant M, first query) for groups of queries, then the rest.
template <int group, class Run>
FASTSI_INLINE void each_group(std::int64_t queries, const Run& run) {
  std::int64_t m = 0;
  for (; m + group <= queries; m += group) run(Count<group>{}, m);
  last_group<group - 1>(queries, m, run);
}

// The larger of `top` and a query's n scores, which are filled up to a multiple of `fill` with
// -inf.
template <class T>
FASTSI_INLINE T max_with(T* score, int n, int fill, T top) {
  constexpr int W = kLanes<T>;
  for (int t = n; t % fill != 0; ++t) score[t] = -INFINITY;
  Vec<T> most = splat<T>(top);
  for (int t = 0; t < n; t += W) most = max(load<T>(score + t), most);
  return max_of<T>(most);
}

// Replaces maxima by `now`, which becomes the factor by which what was added before shrinks.
template <class T>
FASTSI_INLINE void raise_maxima(std::int64_t queries, T* top, T* now) {
  for (std::int64_t m = 0; m < queries; m += kLanes<T>) {
    const std::int64_t left = queries - m;
    const Vec<T> after = load_lanes<T>(now + m, left), before = load_lanes<T>(top + m, left);
    // A query that has seen nothing yet: a finite base makes every weight exp(-inf) = 0, not NaN.
    const Vec<T> base = after == splat<T>(-INFINITY) ? Vec<T>{} : after;
    store_as<T>(now + m, exp_neg(before - base), lanes_of<T>(left));
    store_as<T>(top + m, after, lanes_of<T>(left));
  }
}
template <class T>
FASTSI_INLINE T base_of(T top) {
  return top == -INFINITY ? T{0} : top;
}

// Turns n scores of a query into weights; returns their sum, by lanes.
template <class T>
FASTSI_INLINE Vec<T> weigh(T* score, T base, int n) {
  constexpr int W = kLanes<T>;
  Vec<T> total{};
  for (int t = 0; t < n; t += W) {
    const Vec<T> p = exp_neg(load<T>(score + t) - splat<T>(base));
    store<T>(score + t, p);
    total += p;
  }
  return total;
}

// Adds weights to a query's sum, which shrinks first.
template <class T>
FASTSI_INLINE void add_weights(Vec<T> weights, T rescale, T* sum) {
  store<T>(sum, fma(load<T>(sum), splat<T>(rescale), weights));
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
