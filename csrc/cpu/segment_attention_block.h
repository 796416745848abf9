// What a block of rows works with: its scratch, and which tokens of a segment a row sees.
#pragma once

#include "kernels.h"
#include "segment_attention_tile.h"

namespace fastsi {
namespace FASTSI_ISA {

template <class T>
struct Scratch {
  T *q, *k, *v, *score, *acc;  // [queries, D], [D, kTile], [kTile, Dp], [queries, kTile], [., Dp]
  T *top, *rescale;            // [queries]
  T* sum;                      // [queries][lanes]: of weights, added up when all are in

  static std::int64_t pad(std::int64_t n) { return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }
  static std::int64_t elements(std::int64_t queries, std::int64_t dim) {
    const std::int64_t wide = pad(dim);
    return pad(queries * dim) + dim * kTile + kTile * wide + queries * (kTile + wide) +
           2 * pad(queries) + queries * kLanes<T>;
  }
  static std::int64_t bytes(std::int64_t queries, std::int64_t dim) {
    constexpr std::int64_t kAlign = 64;
    const auto size = static_cast<std::int64_t>(sizeof(T)) * elements(queries, dim);
    return (size + kAlign - 1) / kAlign * kAlign;
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
    sum = take(queries * kLanes<T>);
    top = take(pad(queries));
    rescale = take(pad(queries));
  }
};

struct Range {
  std::int64_t first, last;
};

// The tile that comes next: none where the segment is null.
struct Ahead {
  const SegmentPlan::Segment* segment;
  std::int64_t token;
};

constexpr std::int64_t kFewQueries = 16;

// Tokens of a segment that a row at position `pos` sees.
FASTSI_INLINE Range visible(const SegmentPlan::Segment& s, std::int64_t pos, std::int64_t window) {
  Range range{0, s.kv_len};
  if (s.causal && pos - s.kv_start + 1 < range.last) range.last = pos - s.kv_start + 1;
  if (window > 0 && pos - window + 1 - s.kv_start > 0) range.first = pos - window + 1 - s.kv_start;
  return range;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
