// Flash-style attention of a block of rows for one key/value head. Compiled once per instruction
// set; see kernels.h.
//
// The block's queries are all its rows times the query heads that share the key/value head, row by
// row. For every segment that meets the block, in plan order, and every tile of kTile tokens of the
// segment: keys are transposed into a tile (lanes over tokens), scores are a matrix product, an
// online softmax updates each query's running maximum and sum, and values are added with lanes over
// head_dim. A score is a sum of chains of multiply-adds over head_dim, an output one chain over the
// tile's tokens, tiles start at fixed tokens of their segment, and a tile that a query does not see
// leaves its state as it was: so a query's bits do not depend on which others share its block.
#include "kernels.h"
#include "segment_attention_amx.h"
#include "segment_attention_block.h"
#include "segment_attention_int8.h"
#include "segment_attention_pages.h"
#include "segment_attention_tile.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

// S: type of queries and outputs; C: of the cache.
template <class S, class C>
class BlockAttention {
  using T = Arith<S>;
  static_assert(sizeof(T) == sizeof(Arith<C>));
  static constexpr int W = kLanes<T>;
  static constexpr bool kInt8 = sizeof(C) == 1;
#if defined(FASTSI_AMX)
  static constexpr bool kTiles = sizeof(T) == sizeof(float) && !kInt8;
#endif

 public:
  BlockAttention(const AttentionTask& task, const AttentionBlock& block, void* memory)
      : task_(task),
        block_(block),
        group_(task.q_heads / task.kv_heads),
        queries_((block.row_last - block.row_first) * group_),
        dim_(task.head_dim),
        wide_(Scratch<T>::pad(task.head_dim)),
        pages_(task, block.kv_head),
        scratch_(memory, queries_, dim_)
#if defined(FASTSI_ATTENTION_INT8)
        ,
        ints_(static_cast<char*>(memory) + Scratch<T>::bytes(queries_, dim_), queries_, dim_)
#endif
#if defined(FASTSI_AMX)
        ,
        tiles_(static_cast<char*>(memory) + Scratch<T>::bytes(queries_, dim_), queries_, dim_,
               kCacheParts<C>)
#endif
  {
  }

  void run() {
    load_queries();
#if defined(FASTSI_AMX)
    const TileScope configured;
#endif
    for (std::int64_t i = 0; i < block_.num_segments; ++i) {
      const bool more = i + 1 < block_.num_segments;
      run_segment(task_.segments[block_.segments[i]],
                  more ? task_.segments + block_.segments[i + 1] : nullptr);
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
      if constexpr (kInt8) rotate_head(scratch_.q + m * dim_, dim_);
      scratch_.top[m] = -INFINITY;
      store<T>(scratch_.sum + m * W, Vec<T>{});
    }
    for (std::int64_t i = 0; i < queries_ * wide_; ++i) scratch_.acc[i] = 0;
  }

  void run_segment(const SegmentPlan::Segment& s, const SegmentPlan::Segment* next) {
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
      const bool more = t + kTile < any.last;
      run_tile(s, t, n, first, last, masked, {more ? &s : next, more ? t + kTile : 0});
    }
  }

  void run_tile(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t first,
                std::int64_t last, bool masked, const Ahead& ahead) {
    const C *key[kTile], *value[kTile];
    pages_.place(s, token, n, key, value);
    const std::int64_t m0 = (first - block_.row_first) * group_, count = (last - first) * group_;
    const C *next_key[kTile], *next_value[kTile];
    const int next_n = pages_.place_next(ahead, next_key, next_value);
#if defined(FASTSI_AMX)
    if constexpr (kTiles) {
      if (!s.per_path) {
        return multiply_tiles(s, token, n, m0, count, masked, key, value,
                              LinesAhead(next_key, next_n, dim_),
                              LinesAhead(next_value, next_n, dim_));
      }
    }
#endif
    T* score = scratch_.score + m0 * kTile;
#if defined(FASTSI_ATTENTION_INT8)
    if constexpr (kInt8) {
      if (kIntSinglePaths || !s.per_path) {
        if (!packed_ints_) int_pack_queries(scratch_.q, queries_, dim_, ints_);
        packed_ints_ = true;
        int_pack_keys(key, n, dim_, ints_,
                      [lines = LinesAhead(next_key, next_n, dim_)]() mutable { lines.ask<16>(); });
        int_pack_values(
            value, n, dim_, ints_,
            [lines = LinesAhead(next_value, next_n, dim_)]() mutable { lines.ask<4>(); });
        return multiply_ints(s, token, n, m0, count, masked);
      }
    }
#endif
    // Few queries wait for memory, so values are asked for while keys come in, and the next keys
    // from then on, evenly: many requests at once are dropped. Many queries have products to do
    // meanwhile.
    const bool few = count < kFewQueries;
    LinesAhead values(value, n, dim_), keys(next_key, next_n, dim_);
    pack_keys<C>(key, n, dim_, scratch_.k, [&] {
      if (few) values.ask<16>();
    });
    each_group<kQueries>(count, [&](auto group, std::int64_t m) {
      score_queries<T, decltype(group)::value>(
          scratch_.q + (m0 + m) * dim_, scratch_.k, dim_,
          seen(s, token, n, m0 + m, m0 + m + group.value, masked), score + m * kTile,
          [&] { few && !values.any() ? keys.ask<2>() : values.ask<2>(); });
    });
    if constexpr (kInt8) {
      pages_.scales(s, token, n, k_scale_, v_scale_);
      for (std::int64_t m = 0; m < count; ++m) scale_tokens(score + m * kTile, k_scale_, n);
    }
    find_maxima(s, token, n, m0, count, masked);
    for (std::int64_t m = 0; m < count; ++m) {
      add_weights<T>(weigh<T>(score + m * kTile, base_of(scratch_.top[m0 + m]), n),
                     scratch_.rescale[m0 + m], scratch_.sum + (m0 + m) * W);
      if constexpr (kInt8) scale_tokens(score + m * kTile, v_scale_, n);
    }
    const T* row[kTile];
    place_values(value, n, row);
    each_group<kQueries>(count, [&](auto group, std::int64_t m) {
      value_queries<T, decltype(group)::value>(
          score + m * kTile, row, seen(s, token, n, m0 + m, m0 + m + group.value, masked), wide_,
          scratch_.rescale + m0 + m, scratch_.acc + (m0 + m) * wide_, [&] { keys.ask<2>(); });
    });
  }

  // Of n tokens of a tile, those up to the last that a row of queries [m, last) sees; the rest has
  // no weight.
  int seen(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m,
           std::int64_t last, bool masked) const {
    if (!masked) return n;
    std::int64_t most = 0;
    for (std::int64_t r = m / group_; r <= (last - 1) / group_; ++r) {
      const std::int64_t pos = task_.row_pos[block_.row_first + r];
      const std::int64_t left = visible(s, pos, task_.options.window).last - token;
      most = left > most ? left : most;
    }
    return most < n ? static_cast<int>(most) : n;
  }

  // Raises the maxima of the tile's queries by its scores, after soft-cap and mask.
  void find_maxima(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m0,
                   std::int64_t count, bool masked) {
    T* score = scratch_.score + m0 * kTile;
    hide_scores(s, token, n, m0, count, masked);
    for (std::int64_t m = 0; m < count; ++m) {
      scratch_.rescale[m0 + m] = max_with<T>(score + m * kTile, n, W, scratch_.top[m0 + m]);
    }
    raise_maxima<T>(count, scratch_.top + m0, scratch_.rescale + m0);
  }

  void hide_scores(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m0,
                   std::int64_t count, bool masked) {
    T* score = scratch_.score + m0 * kTile;
    if (task_.options.softcap > 0) cap(score, count, n);
    if (masked) mask(s, token, n, m0, count, score);
  }

  void scale_tokens(T* score, const float* scale, int n) const {
    for (int t = 0; t < n; t += W) store<T>(score + t, load<T>(score + t) * load<T>(scale + t));
  }

#if defined(FASTSI_ATTENTION_INT8)
  // The same in integers, for a packed tile of an int8 cache.
  void multiply_ints(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m0,
                     std::int64_t count, bool masked) {
    pages_.scales(s, token, n, k_scale_, v_scale_);
    each_group<kIntQueries>(count, [&](auto group, std::int64_t m) {
      int_scores<decltype(group)::value>(ints_, m0 + m, n, k_scale_,
                                         scratch_.score + (m0 + m) * kTile);
    });
    hide_scores(s, token, n, m0, count, masked);
    alignas(64) float log_scale[kTile];
    int_log_scales(v_scale_, log_scale);
    float* rescale = scratch_.rescale + m0;
    for (std::int64_t m = 0; m < count; ++m) {
      int_maxima(scratch_.score + (m0 + m) * kTile, n, log_scale, ints_.top + m0 + m, rescale + m);
    }
    int_raise_maxima(count, m0, ints_, scratch_.top + m0, rescale);
    for (std::int64_t m = m0; m < m0 + count; ++m) {
      add_weights<float>(int_weigh(scratch_.score + m * kTile, base_of(scratch_.top[m]),
                                   ints_.inverse[m], v_scale_, n, ints_.p + m * kTile),
                         scratch_.rescale[m], scratch_.sum + m * W);
    }
    each_group<kIntQueries>(count, [&](auto group, std::int64_t m) {
      int_values<decltype(group)::value>(ints_, m0 + m, n, wide_, scratch_.rescale + m0 + m,
                                         scratch_.acc + (m0 + m) * wide_);
    });
  }
#endif

#if defined(FASTSI_AMX)
  // The same for a span that many rows may share: repacked once, multiplied on matrix tiles, by the
  // keys for all groups of queries and then by the values, so that each in turn stays in the
  // first-level cache. Meanwhile the vector units do the softmax of other groups, and the next
  // tile comes from memory.
  void multiply_tiles(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m0,
                      std::int64_t count, bool masked, const C* const* key, const C* const* value,
                      LinesAhead keys, LinesAhead values) {
    if (!packed_queries_) amx_pack_queries(scratch_.q, queries_, dim_, tiles_);
    packed_queries_ = true;
    amx_pack_keys<C>(key, n, dim_, tiles_);
    amx_pack_values<C>(value, n, dim_, tiles_);
    const auto ask = [&] { keys.any() ? keys.ask<8, 2>() : values.ask<8, 2>(); };
    const Groups groups{m0, count};
    weigh_groups(s, token, n, groups, masked, ask);
    add_groups(n, groups, ask);
  }

  // Queries [begin, begin + queries) in groups of kGroupRows.
  struct Groups {
    std::int64_t begin, queries;
    std::int64_t count() const { return (queries + kGroupRows - 1) / kGroupRows; }
    std::int64_t first(std::int64_t g) const { return begin + g * kGroupRows; }
    std::int64_t size(std::int64_t g) const {
      const std::int64_t left = queries - g * kGroupRows;
      return g < 0 || left < 0 ? 0 : left < kGroupRows ? left : kGroupRows;
    }
  };

  // Scores of all groups, which become weights while the next group is multiplied.
  template <class Ask>
  void weigh_groups(const SegmentPlan::Segment& s, std::int64_t token, int n, const Groups& groups,
                    bool masked, const Ask& ask) {
    for (std::int64_t g = 0; g <= groups.count(); ++g) {
      const std::int64_t m = groups.first(g - 1), rows = groups.size(g - 1);
      const std::int64_t work = rows > 0 ? 2 * rows + 1 : 0;
      const auto soften = [&](std::int64_t i) {
        if (i < rows) raise_query(m + i, n);
        if (i == rows) raise_maxima<float>(rows, scratch_.top + m, scratch_.rescale + m);
        if (i > rows) weigh_query(m + i - rows - 1, n);
      };
      if (g == groups.count()) {
        for (std::int64_t i = 0; i < work; ++i) soften(i);
        break;
      }
      amx_scores<C>(tiles_, groups.first(g), n, soften, work, ask);
      float* score = tiles_.score + groups.first(g) * kTile;
      if (task_.options.softcap > 0) cap(score, groups.size(g), n);
      if (masked) mask(s, token, n, groups.first(g), groups.size(g), score);
    }
  }

  // Adds the weighted values of all groups. While one is multiplied the weights of the next are
  // split, and what the tiles gave for the previous one is added.
  template <class Ask>
  void add_groups(int n, const Groups& groups, const Ask& ask) {
    for (std::int64_t g = -1; g <= groups.count(); ++g) {
      const std::int64_t after = groups.size(g + 1), before = groups.size(g - 1);
      const auto pass = [&](std::int64_t i) {
        if (i < after) {
          amx_split_weights(tiles_.score + (groups.first(g + 1) + i) * kTile, n,
                            tiles_.weights_of(g + 1) + i * kTileRowBytes);
        } else {
          i -= after;
          add_values(groups.first(g - 1) + i, tiles_.out_of(g - 1) + i * tiles_.wide);
        }
      };
      if (groups.size(g) > 0) {
        amx_values<C>(tiles_, g, n, pass, after + before, ask);
      } else {
        for (std::int64_t i = 0; i < after + before; ++i) pass(i);
      }
    }
  }

  void raise_query(std::int64_t m, int n) {
    scratch_.rescale[m] = max_with<float>(tiles_.score + m * kTile, n, kStep, scratch_.top[m]);
  }

  void weigh_query(std::int64_t m, int n) {
    float* score = tiles_.score + m * kTile;
    const float base = base_of(scratch_.top[m]);
    add_weights<float>(n > kStep ? amx_weigh<4>(score, base) : amx_weigh<2>(score, base),
                       scratch_.rescale[m], scratch_.sum + m * W);
  }

  // acc = acc * rescale + what the tiles gave.
  void add_values(std::int64_t m, const float* out) {
    const vf rescale = splat(scratch_.rescale[m]);
    float* acc = scratch_.acc + m * wide_;
    for (std::int64_t d = 0; d < wide_; d += W) {
      store(acc + d, fma(load(acc + d), rescale, load(out + d)));
    }
  }
#endif

  void cap(T* score, std::int64_t count, int n) const {
    const T cap = static_cast<T>(task_.options.softcap);
    for (std::int64_t m = 0; m < count; ++m) {
      for (int t = 0; t < n; t += W) {
        const Vec<T> x = load<T>(score + m * kTile + t);
        store<T>(score + m * kTile + t, tanh(x / splat<T>(cap)) * splat<T>(cap));
      }
    }
  }

  // Hides what the rows of queries [m0, m0 + count) do not see of a tile.
  void mask(const SegmentPlan::Segment& s, std::int64_t token, int n, std::int64_t m0,
            std::int64_t count, T* score) const {
    for (std::int64_t m = 0; m < count; ++m, score += kTile) {
      const std::int64_t row = block_.row_first + (m0 + m) / group_;
      const Range seen = visible(s, task_.row_pos[row], task_.options.window);
      for (int t = 0; t < n && token + t < seen.first; ++t) score[t] = -INFINITY;
      for (std::int64_t t = seen.last < token ? 0 : seen.last - token; t < n; ++t) {
        score[t] = -INFINITY;
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
      const T sum = sum_of<T>(load<T>(scratch_.sum + m * W));
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
  KvPages<C> pages_;
  Scratch<T> scratch_;
  alignas(64) float k_scale_[kTile], v_scale_[kTile];  // of an int8 cache's tile
#if defined(FASTSI_ATTENTION_INT8)
  IntScratch ints_;
  bool packed_ints_ = false;
#endif
#if defined(FASTSI_AMX)
  AmxScratch tiles_;
  bool packed_queries_ = false;
#endif
};

}  // namespace

std::size_t attention_scratch(const AttentionTask& task, std::int64_t rows) {
  const std::int64_t queries = rows * (task.q_heads / task.kv_heads), dim = task.head_dim;
  std::int64_t bytes = task.dtype == DType::f64 ? Scratch<double>::bytes(queries, dim)
                                                : Scratch<float>::bytes(queries, dim);
#if defined(FASTSI_ATTENTION_INT8)
  if (task.cache_dtype == DType::i8) bytes += IntScratch::bytes(queries, dim);
#endif
#if defined(FASTSI_AMX)
  bytes += AmxScratch::bytes(queries, dim, kQueryParts);
#endif
  return static_cast<std::size_t>(bytes);
}

void attention(const AttentionTask& task, const AttentionBlock& block, void* scratch) {
  switch (task.dtype) {
    case DType::f32:
      if (task.cache_dtype == DType::bf16) {
        return BlockAttention<float, bf16>(task, block, scratch).run();
      }
      if (task.cache_dtype == DType::i8) {
        return BlockAttention<float, std::int8_t>(task, block, scratch).run();
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
