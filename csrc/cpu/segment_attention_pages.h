// Where the keys and values of a segment's tokens lie in the paged cache of one key/value head.
#pragma once

#include "kernels.h"
#include "segment_attention_block.h"

namespace fastsi {
namespace FASTSI_ISA {

// Lines of rows that will be needed, asked for a few at a time between products. The spans of
// single paths are read once per step, from memory, page by page; the hardware does not read ahead
// from one page to the next, and of many requests at once it drops most.
class LinesAhead {
 public:
  template <class C>
  LinesAhead(const C* const* row, int rows, std::int64_t dim)
      : row_(reinterpret_cast<const char* const*>(row)),
        end_(row_ + rows),
        bytes_(dim * static_cast<std::int64_t>(sizeof(C))) {}

  bool any() const { return row_ < end_; }

  // Level 3: into the first-level cache; 2: only into the second.
  template <int count, int level = 3>
  inline __attribute__((always_inline)) void ask() {
    for (int i = 0; i < count && row_ < end_; ++i) {
      __builtin_prefetch(*row_ + at_, 0, level);
      at_ += 64;
      if (at_ >= bytes_) at_ = 0, ++row_;
    }
  }

 private:
  const char *const *row_, *const *end_;
  std::int64_t bytes_, at_ = 0;
};

// C: type of the cache.
template <class C>
class KvPages {
 public:
  KvPages(const AttentionTask& task, std::int64_t kv_head) : task_(task), kv_head_(kv_head) {}

  // Addresses of the keys and values of n tokens of a segment.
  void place(const SegmentPlan::Segment& s, std::int64_t token, int n, const C** key,
             const C** value) const {
    each_page(s, token, n, [&](int t, std::int64_t at, int count) {
      for (int end = t + count; t < end; ++t, ++at) {
        key[t] = static_cast<const C*>(task_.k_cache) + at * task_.head_dim;
        value[t] = static_cast<const C*>(task_.v_cache) + at * task_.head_dim;
      }
    });
  }

  // The same for a tile; returns how many there are. Asks for their scales.
  int place_next(const Ahead& ahead, const C** key, const C** value) const {
    if (ahead.segment == nullptr) return 0;
    const SegmentPlan::Segment& s = *ahead.segment;
    const int n = s.kv_len - ahead.token < kTile ? static_cast<int>(s.kv_len - ahead.token) : kTile;
    place(s, ahead.token, n, key, value);
    if constexpr (sizeof(C) == 1) {
      constexpr int kLine = 64 / static_cast<int>(sizeof(float));
      for (int t = 0; t < n; t += kLine) {
        const std::int64_t at = (key[t] - static_cast<const C*>(task_.k_cache)) / task_.head_dim;
        __builtin_prefetch(task_.k_scale + at, 0, 3);
        __builtin_prefetch(task_.v_scale + at, 0, 3);
      }
    }
    return n;
  }

  // Scales of n keys and values of an int8 cache; 0 up to a whole tile.
  void scales(const SegmentPlan::Segment& s, std::int64_t token, int n, float* k, float* v) const {
    each_page(s, token, n, [&](int t, std::int64_t at, int count) {
      const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
      std::memcpy(k + t, task_.k_scale + at, bytes);
      std::memcpy(v + t, task_.v_scale + at, bytes);
    });
    for (int t = n; t < kTile; ++t) k[t] = v[t] = 0;
  }

 private:
  // Calls run(t, at, count) for every stretch of n tokens that lies in one page: tokens t to t +
  // count are those of the cache from `at` on. A division per token would cost as much as its
  // scores.
  template <class Run>
  void each_page(const SegmentPlan::Segment& s, std::int64_t token, int n, const Run& run) const {
    const std::int64_t slot = s.page_offset + token, size = task_.page_size;
    std::int64_t index = s.first_page + slot / size, within = slot % size;
    for (int t = 0; t < n; ++index, within = 0) {
      const std::int64_t left = size - within;
      const int count = left < n - t ? static_cast<int>(left) : n - t;
      run(t, (task_.pages[index] * task_.kv_heads + kv_head_) * size + within, count);
      t += count;
    }
  }

  const AttentionTask& task_;
  std::int64_t kv_head_;
};

}  // namespace FASTSI_ISA
}  // namespace fastsi
