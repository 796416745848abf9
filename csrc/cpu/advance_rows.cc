#include <algorithm>

#include "fastsi/ops.h"

namespace fastsi {
namespace {

template <class T>
T* changed(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

void require_indices(const char* name, const std::int64_t* index, std::int64_t count,
                     std::int64_t size) {
  for (std::int64_t i = 0; i < count; ++i) {
    FASTSI_CHECK(0 <= index[i] && index[i] < size, name, "[", i, "]: is ", index[i],
                 ", must be in 0..", size - 1);
  }
}

}  // namespace

void advance_rows(const TensorView& token, const TensorView& slots, const TensorView& last,
                  const RowBuffers& rows) {
  for (const auto* one : {&token, &last, &rows.kv_len, &rows.span_ends}) {
    require_dims("token, last, kv_len, span_ends", *one, 1);
  }
  require_dims("moving", rows.moving, 2);
  const std::int64_t count = token.shape[0], segments = rows.kv_len.shape[0];
  const std::int64_t spans = rows.span_ends.shape[0], numbers = rows.moving.shape[0];
  const auto* drawn = vector_of<std::int64_t>("token", token, DType::i64, count);
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, count);
  auto* kept = changed<std::int64_t>("last", last, DType::i64, last.shape[0]);
  auto* id = changed<std::int64_t>("ids", rows.ids, DType::i64, count);
  require_dtype("moving", rows.moving, DType::i64);
  require_size("moving", rows.moving, 1, count);
  require_contiguous("moving", rows.moving);
  auto* number = static_cast<std::int64_t*>(rows.moving.data);
  auto* pos = changed<std::int32_t>("row_pos", rows.row_pos, DType::i32, count);
  auto* kv_len = changed<std::int32_t>("kv_len", rows.kv_len, DType::i32, segments);
  require_dtype("span_ends", rows.span_ends, DType::i32);
  auto* end = static_cast<std::int32_t*>(rows.span_ends.data);
  const auto* live = vector_of<std::int64_t>("live", rows.live, DType::i64, count + 1);
  const auto* grows =
      vector_of<std::int64_t>("grows_with", rows.grows_with, DType::i64, segments + spans);
  require_indices("slots", slot, count, last.shape[0]);
  require_indices("grows_with", grows, segments + spans, count + 1);
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t next = std::max<std::int64_t>(drawn[r], 0);
    kept[slot[r]] = next;
    if (live[r] > 0) id[r] = next;
    for (std::int64_t i = 0; i < numbers; ++i) number[i * count + r] += live[r];
    pos[r] += static_cast<std::int32_t>(live[r]);
  }
  for (std::int64_t i = 0; i < segments; ++i)
    kv_len[i] += static_cast<std::int32_t>(live[grows[i]]);
  for (std::int64_t i = 0; i < spans; ++i) {
    end[i * rows.span_ends.stride[0]] += static_cast<std::int32_t>(live[grows[segments + i]]);
  }
}

}  // namespace fastsi
