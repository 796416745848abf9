// Flash-style attention of a block of rows for one key/value head. Compiled once per instruction
// set; see kernels.h.
//
// The block's queries are all its rows times the query heads that share the key/value head, row by
// row. For every segment that meets the block, in plan order, and every tile of kTile tokens of the
// segment: keys are transposed into a tile (lanes over tokens), scores are a matrix product, an
// online softmax updates each query's running maximum and sum, and values are added with lanes over
// head_dim. Each score is one chain of multiply-adds over head_dim, each output one chain over the
// tile's tokens, tiles start at fixed tokens of their segment, and a tile that a query does not see
// leaves its state as it was: so a query's bits do not depend on which others share its block.
#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr int kTile = 64;  // tokens
// Queries and vectors per register tile: queries * vectors accumulators, one vector row of the
// other operand, and a broadcast fit the register file (32 registers, or 16).
constexpr int kQueries = FASTSI_VECTOR_BYTES == 16 ? 4 : 6;
constexpr int kVectors = FASTSI_VECTOR_BYTES == 64 ? 4 : 2;

template <class T>
struct Scratch {
  T *q, *k, *v, *score, *acc;  // [queries, D], [D, kTile], [kTile, Dp], [queries, kTile], [., Dp]
  T *top, *sum, *rescale;      // [queries]

  static std::int64_t pad(std::int64_t n) { return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }
  static std::int64_t elements(std::int64_t queries, std::int64_t dim) {
    const std::int64_t wide = pad(dim);
    return pad(queries * dim) + dim * kTile + kTile * wide + queries * (kTile + wide) +
           3 * pad(queries);
  }
  Scratch(void* memory, std::int64_t queries, std::int64_t dim) {
    auto* at = static_cast<T*>(memory);
    const auto take = [&at](std::int64_t n) {
      T* part = at;
      at += n;
      return part;
    };
    const std::int64_t wide = pad(dim);
    q = take(pad(queries * dim));
    k = take(dim * kTile);
    v = take(kTile * wide);
    score = take(queries * kTile);
    acc = take(queries * wide);
    top = take(pad(queries));
    sum = take(pad(queries));
    rescale = take(pad(queries));
  }
};

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

// Writes the keys of n tokens as k[d][t], t up to the next multiple of a vector; the rest is 0.
template <class S>
void pack_keys(const S* const* key, int n, std::int64_t dim, Arith<S>* k) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  for (int t = 0; t < n; t += W) {
    const int tokens = lanes_of<T>(n - t);
    for (std::int64_t d = 0; d < dim; d += W) {
      const int lanes = lanes_of<T>(dim - d);
      Vec<T> v[W];
      for (int i = 0; i < W; ++i) {
        v[i] = i < tokens ? load_lanes<S>(key[t + i] + d, dim - d) : Vec<T>{};
      }
      transpose<T>(v);
      for (int i = 0; i < W; ++i) {
        if (i < lanes) store<T>(k + (d + i) * kTile + t, v[i]);
      }
    }
  }
}

// score[m][t] = q[m] . k[.][t] for `queries` queries and NV vectors of tokens.
template <class T, int M, int NV>
FASTSI_INLINE void score_tile(const T* q, const T* k, std::int64_t dim, T* score) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[M][NV] = {};
  for (std::int64_t d = 0; d < dim; ++d) {
    Vec<T> key[NV];
    for (int j = 0; j < NV; ++j) key[j] = load<T>(k + d * kTile + j * W);
    for (int m = 0; m < M; ++m) {
      const Vec<T> x = splat<T>(q[m * dim + d]);
      for (int j = 0; j < NV; ++j) acc[m][j] = fma(x, key[j], acc[m][j]);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < NV; ++j) store<T>(score + m * kTile + j * W, acc[m][j]);
  }
}

template <class T, int M>
void score_queries(const T* q, const T* k, std::int64_t dim, int n, T* score) {
  constexpr int W = kLanes<T>;
  int t = 0;
  for (; t + (kVectors - 1) * W < n; t += kVectors * W) {
    score_tile<T, M, kVectors>(q, k + t, dim, score + t);
  }
  for (; t < n; t += W) score_tile<T, M, 1>(q, k + t, dim, score + t);
}

// acc[m] = acc[m] * rescale[m] + sum over t of p[m][t] * value[t], for NV vectors of head_dim.
template <class T, int M, int NV>
FASTSI_INLINE void value_tile(const T* p, const T* const* value, int n, std::int64_t d,
                              std::int64_t wide, const T* rescale, T* acc) {
  constexpr int W = kLanes<T>;
  Vec<T> part[M][NV] = {};
  for (int t = 0; t < n; ++t) {
    Vec<T> x[NV];
    for (int j = 0; j < NV; ++j) x[j] = load<T>(value[t] + d + j * W);
    for (int m = 0; m < M; ++m) {
      const Vec<T> weight = splat<T>(p[m * kTile + t]);
      for (int j = 0; j < NV; ++j) part[m][j] = fma(weight, x[j], part[m][j]);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int j = 0; j < NV; ++j) {
      T* to = acc + m * wide + d + j * W;
      store<T>(to, fma(load<T>(to), splat<T>(rescale[m]), part[m][j]));
    }
  }
}

template <class T, int M>
void value_queries(const T* p, const T* const* value, int n, std::int64_t wide, const T* rescale,
                   T* acc) {
  constexpr int W = kLanes<T>;
  std::int64_t d = 0;
  for (; d + kVectors * W <= wide; d += kVectors * W) {
    value_tile<T, M, kVectors>(p, value, n, d, wide, rescale, acc);
  }
  for (; d < wide; d += W) value_tile<T, M, 1>(p, value, n, d, wide, rescale, acc);
}

// Calls run(std::integral-like constant M, first query) for groups of kQueries, then the rest.
template <int M>
struct Count {
  static constexpr int value = M;
};
template <class Run>
FASTSI_INLINE void each_group(std::int64_t queries, const Run& run) {
  std::int64_t m = 0;
  for (; m + kQueries <= queries; m += kQueries) run(Count<kQueries>{}, m);
  switch (queries - m) {
    case 5:
      return run(Count<5>{}, m);
    case 4:
      return run(Count<4>{}, m);
    case 3:
      return run(Count<3>{}, m);
    case 2:
      return run(Count<2>{}, m);
    case 1:
      return run(Count<1>{}, m);
    default:
      return;
  }
}

// Turns n scores of each query into weights against its new maximum; updates maximum and sum, and
// gives the factor by which what was added before shrinks.
template <class T>
FASTSI_INLINE void softmax(T* score, std::int64_t queries, int n, T* top, T* sum, T* rescale) {
  constexpr int W = kLanes<T>;
  for (std::int64_t m = 0; m < queries; ++m) {
    T* of = score + m * kTile;
    for (int t = n; t % W != 0; ++t) of[t] = -INFINITY;
    Vec<T> most = splat<T>(top[m]);
    for (int t = 0; t < n; t += W) most = max(load<T>(of + t), most);
    rescale[m] = max_of<T>(most);
  }
  for (std::int64_t m = 0; m < queries; m += W) {
    const std::int64_t left = queries - m;
    const Vec<T> now = load_lanes<T>(rescale + m, left), before = load_lanes<T>(top + m, left);
    // A query that has seen nothing yet: a finite base makes every weight exp(-inf) = 0, not NaN.
    const Vec<T> base = now == splat<T>(-INFINITY) ? Vec<T>{} : now;
    store_as<T>(rescale + m, exp_neg(before - base), lanes_of<T>(left));
    store_as<T>(top + m, now, lanes_of<T>(left));
  }
  for (std::int64_t m = 0; m < queries; ++m) {
    T* of = score + m * kTile;
    const Vec<T> base = splat<T>(top[m] == -INFINITY ? T{0} : top[m]);
    Vec<T> total{};
    for (int t = 0; t < n; t += W) {
      const Vec<T> p = exp_neg(load<T>(of + t) - base);
      store<T>(of + t, p);
      total += p;
    }
    sum[m] = sum[m] * rescale[m] + sum_of<T>(total);
  }
}

struct Range {
  std::int64_t first, last;
};

// Tokens of a segment that a row at position `pos` sees.
FASTSI_INLINE Range visible(const SegmentPlan::Segment& s, std::int64_t pos, std::int64_t window) {
  Range range{0, s.kv_len};
  if (s.causal && pos - s.kv_start + 1 < range.last) range.last = pos - s.kv_start + 1;
  if (window > 0 && pos - window + 1 - s.kv_start > 0) range.first = pos - window + 1 - s.kv_start;
  return range;
}

// S: type of queries and outputs; C: of the cache.
template <class S, class C>
class BlockAttention {
  using T = Arith<S>;
  static_assert(sizeof(T) == sizeof(Arith<C>));
  static constexpr int W = kLanes<T>;

 public:
  BlockAttention(const AttentionTask& task, const AttentionBlock& block, void* memory)
      : task_(task),
        block_(block),
        group_(task.q_heads / task.kv_heads),
        queries_((block.row_last - block.row_first) * group_),
        dim_(task.head_dim),
        wide_(Scratch<T>::pad(task.head_dim)),
        scratch_(memory, queries_, dim_) {}

  void run() {
    load_queries();
    for (std::int64_t i = 0; i < block_.num_segments; ++i) {
      run_segment(task_.segments[block_.segments[i]]);
    }
    store_results();
  }

 private:
  void load_queries() {
    const T scale = static_cast<T>(task_.options.scale);
    for (std::int64_t m = 0; m < queries_; ++m) {
      const std::int64_t row = block_.row_first + m / group_;
      const std::int64_t head = block_.kv_head * group_ + m % group_;
      const S* from =
          static_cast<const S*>(task_.q) + row * task_.q_row_stride + head * task_.q_head_stride;
      for (std::int64_t d = 0; d < dim_; ++d) scratch_.q[m * dim_ + d] = to_arith(from[d]) * scale;
      scratch_.top[m] = -INFINITY;
      scratch_.sum[m] = 0;
    }
    for (std::int64_t i = 0; i < queries_ * wide_; ++i) scratch_.acc[i] = 0;
  }

  void run_segment(const SegmentPlan::Segment& s) {
    const std::int64_t first = s.row_begin > block_.row_first ? s.row_begin : block_.row_first;
    const std::int64_t last = s.row_end < block_.row_last ? s.row_end : block_.row_last;
    Range any{s.kv_len, 0};  // tokens that some row sees
    Range all{0, s.kv_len};  // tokens that every row sees
    for (std::int64_t row = first; row < last; ++row) {
      const Range seen = visible(s, task_.row_pos[row], task_.options.window);
      any.first = seen.first < any.first ? seen.first : any.first;
      any.last = seen.last > any.last ? seen.last : any.last;
      all.first = seen.first > all.first ? seen.first : all.first;
      all.last = seen.last < all.last ? seen.last : all.last;
    }
    for (std::int64_t t = any.first / kTile * kTile; t < any.last; t += kTile) {
      const int n = s.kv_len - t < kTile ? static_cast<int>(s.kv_len - t) : kTile;
      const bool masked = t < all.first || t + n > all.last;
      run_tile(s, t, n, first, last, masked);
    }
  }

  void run_tile(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t first,
                std::int64_t last, bool masked) {
    const C *key[kTile], *value[kTile];
    place_tokens(s.first_page, s.page_offset + token, n, key, value);
    const std::int64_t m0 = (first - block_.row_first) * group_, count = (last - first) * group_;
    T* score = scratch_.score + m0 * kTile;
    pack_keys<C>(key, n, dim_, scratch_.k);
    each_group(count, [&](auto group, std::int64_t m) {
      score_queries<T, decltype(group)::value>(scratch_.q + (m0 + m) * dim_, scratch_.k, dim_, n,
                                               score + m * kTile);
    });
    if (task_.options.softcap > 0) cap(score, count, n);
    if (masked) mask(s, token, n, first, last, score);
    softmax<T>(score, count, n, scratch_.top + m0, scratch_.sum + m0, scratch_.rescale + m0);
    const T* row[kTile];
    place_values(value, n, row);
    each_group(count, [&](auto group, std::int64_t m) {
      value_queries<T, decltype(group)::value>(score + m * kTile, row, n, wide_,
                                               scratch_.rescale + m0 + m,
                                               scratch_.acc + (m0 + m) * wide_);
    });
  }

  // Addresses of the keys and values of n tokens, from a slot of a segment on; page by page, since
  // a division per token would cost as much as its scores.
  void place_tokens(std::int64_t first_page, std::int64_t slot, int n, const C** key,
                    const C** value) const {
    std::int64_t index = first_page + slot / task_.page_size, within = slot % task_.page_size;
    for (int t = 0; t < n; ++index, within = 0) {
      const std::int64_t page = task_.pages[index] * task_.kv_heads + block_.kv_head;
      std::int64_t at = (page * task_.page_size + within) * dim_;
      for (; within < task_.page_size && t < n; ++within, ++t, at += dim_) {
        key[t] = static_cast<const C*>(task_.k_cache) + at;
        value[t] = static_cast<const C*>(task_.v_cache) + at;
      }
    }
  }

  void cap(T* score, std::int64_t count, int n) const {
    const T cap = static_cast<T>(task_.options.softcap);
    for (std::int64_t m = 0; m < count; ++m) {
      for (int t = 0; t < n; t += W) {
        const Vec<T> x = load<T>(score + m * kTile + t);
        store<T>(score + m * kTile + t, tanh(x / splat<T>(cap)) * splat<T>(cap));
      }
    }
  }

  void mask(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t first,
            std::int64_t last, T* score) const {
    for (std::int64_t row = first; row < last; ++row) {
      const Range seen = visible(s, task_.row_pos[row], task_.options.window);
      for (std::int64_t g = 0; g < group_; ++g) {
        T* of = score + ((row - first) * group_ + g) * kTile;
        for (int t = 0; t < n; ++t) {
          if (token + t < seen.first || token + t >= seen.last) of[t] = -INFINITY;
        }
      }
    }
  }

  // Rows of values in arithmetic type, a whole number of vectors long: in place where they are so.
  void place_values(const C* const* value, int n, const T** row) const {
    for (int t = 0; t < n; ++t) {
      if constexpr (sizeof(C) == sizeof(T)) {
        if (dim_ == wide_) {
          row[t] = reinterpret_cast<const T*>(value[t]);
          continue;
        }
      }
      T* to = scratch_.v + t * wide_;
      for (std::int64_t d = 0; d < wide_; d += W)
        store<T>(to + d, load_lanes<C>(value[t] + d, dim_ - d));
      row[t] = to;
    }
  }

  void store_results() {
    for (std::int64_t m = 0; m < queries_; ++m) {
      const std::int64_t row = block_.row_first + m / group_;
      const std::int64_t head = block_.kv_head * group_ + m % group_;
      const T sum = scratch_.sum[m];
      auto* out = static_cast<S*>(task_.out) + (row * task_.q_heads + head) * dim_;
      const T inverse = sum == 0 ? T{0} : T{1} / sum;  // a row that saw nothing gives 0
      for (std::int64_t d = 0; d < dim_; d += W) {
        store_as<S>(out + d, load<T>(scratch_.acc + m * wide_ + d) * splat<T>(inverse),
                    lanes_of<T>(dim_ - d));
      }
      static_cast<T*>(task_.lse)[row * task_.q_heads + head] =
          sum == 0 ? -INFINITY : scratch_.top[m] + std::log(sum);
    }
  }

  const AttentionTask& task_;
  const AttentionBlock& block_;
  std::int64_t group_, queries_, dim_, wide_;
  Scratch<T> scratch_;
};

}  // namespace

std::size_t attention_scratch(const AttentionTask& task, std::int64_t rows) {
  const std::int64_t queries = rows * (task.q_heads / task.kv_heads);
  if (task.dtype == DType::f64) {
    return sizeof(double) * Scratch<double>::elements(queries, task.head_dim);
  }
  return sizeof(float) * Scratch<float>::elements(queries, task.head_dim);
}

void attention(const AttentionTask& task, const AttentionBlock& block, void* scratch) {
  switch (task.dtype) {
    case DType::f32:
      if (task.cache_dtype == DType::bf16) {
        return BlockAttention<float, bf16>(task, block, scratch).run();
      }
      return BlockAttention<float, float>(task, block, scratch).run();
    case DType::f64:
      return BlockAttention<double, double>(task, block, scratch).run();
    case DType::bf16:
      return BlockAttention<bf16, bf16>(task, block, scratch).run();
    default:
      return BlockAttention<f16, f16>(task, block, scratch).run();
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
