#include <algorithm>
#include <cstring>

#include "fastsi/ops.h"
#include "fastsi/parallel.h"

namespace fastsi {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

// Rounds n floats to nearest, ties to even. NaN stays NaN.
void round_to_bf16(const char* from, char* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, from + i * 4, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    const auto half = static_cast<std::uint16_t>(nan ? 0x7FC0u : rounded);
    std::memcpy(to + i * 2, &half, sizeof half);
  }
}

}  // namespace

void kv_write(const TensorView& k, const TensorView& v, const TensorView& k_cache,
              const TensorView& v_cache, const TensorView& slots, int threads) {
  const struct {
    const char* name;
    const TensorView& view;
    int dims;
  } all[] = {{"k", k, 3}, {"v", v, 3}, {"k_cache", k_cache, 4}, {"v_cache", v_cache, 4}};
  FASTSI_CHECK(is_float(k.dtype), "k: is ", name_of(k.dtype), ", must be a floating type");
  for (const auto& [name, view, dims] : all) {
    require_dims(name, view, dims);
    if (dims == 3) require_dtype(name, view, k.dtype);
    if (dims == 3) require_dense_last(name, view);
    if (dims == 4) require_cache_dtype(name, view, k.dtype);
    if (dims == 4) require_contiguous(name, view);
  }
  const std::int64_t rows = k.shape[0], heads = k.shape[1], dim = k.shape[2];
  const std::int64_t page_size = k_cache.shape[2], capacity = k_cache.shape[0] * page_size;
  require_dtype("v_cache", v_cache, k_cache.dtype);
  for (int i = 0; i < 3; ++i) require_size("v", v, i, k.shape[i]);
  for (int i = 0; i < 4; ++i) require_size("v_cache", v_cache, i, k_cache.shape[i]);
  require_size("k_cache", k_cache, 1, heads);
  require_size("k_cache", k_cache, 3, dim);
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(-1 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in -1..", capacity - 1);
  }
  const auto bytes = static_cast<std::int64_t>(size_of(k.dtype));
  const auto cache_bytes = static_cast<std::int64_t>(size_of(k_cache.dtype));
  const bool rounds = k_cache.dtype != k.dtype;
  const auto copy_row = [&](const TensorView& from, const TensorView& to, std::int64_t r) {
    const std::int64_t page = slot[r] / page_size, offset = slot[r] % page_size;
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto* source =
          static_cast<const char*>(from.data) + (r * from.stride[0] + h * from.stride[1]) * bytes;
      auto* target = static_cast<char*>(to.data) +
                     ((page * heads + h) * page_size + offset) * dim * cache_bytes;
      if (rounds) {
        round_to_bf16(source, target, dim);
      } else {
        std::memcpy(target, source, static_cast<std::size_t>(dim * bytes));
      }
    }
  };
  if (static_cast<double>(2 * k.numel()) < kSerialElements) threads = 1;
  parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task) {
    const std::int64_t last = std::min(rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < last; ++r) {
      if (slot[r] < 0) continue;
      copy_row(k, k_cache, r);
      copy_row(v, v_cache, r);
    }
  });
}

}  // namespace fastsi
