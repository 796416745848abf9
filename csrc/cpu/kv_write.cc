#include <algorithm>
#include <cstring>

#include "fastsi/ops.h"
#include "fastsi/parallel.h"
#include "kernels.h"

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

// Keys and values without a rotation of positions.
void write_int8(const TensorView& k, const TensorView& v, const KvCache& cache,
                const std::int64_t* slots, int threads) {
  RopeTask task{};
  task.dtype = k.dtype;
  task.k = k.data;
  task.v = v.data;
  for (int i = 0; i < 2; ++i) {
    task.k_stride[i] = k.stride[i];
    task.v_stride[i] = v.stride[i];
  }
  task.set_cache(cache, slots);
  rope_rows(task, k.shape[0], threads);
}

}  // namespace

void check_cache(const KvCache& cache, DType dtype, std::int64_t heads, std::int64_t dim) {
  const TensorView& k = cache.k;
  const struct {
    const char* name;
    const TensorView& view;
    const char* scale_name;
    const TensorView* scale;
  } both[] = {{"k_cache", cache.k, "k_scale", cache.k_scale},
              {"v_cache", cache.v, "v_scale", cache.v_scale}};
  for (const auto& [name, view, scale_name, scale] : both) {
    require_dims(name, view, 4);
    require_cache_dtype(name, view, dtype);
    require_dtype(name, view, k.dtype);
    require_contiguous(name, view);
    for (int i : {0, 2}) require_size(name, view, i, k.shape[i]);
    require_size(name, view, 1, heads);
    require_size(name, view, 3, dim);
    FASTSI_CHECK((scale != nullptr) == (k.dtype == DType::i8), scale_name,
                 ": needed for int8 caches and for no other, ", name, " is ", name_of(k.dtype));
    if (scale == nullptr) continue;
    require_dims(scale_name, *scale, 3);
    require_dtype(scale_name, *scale, DType::f32);
    require_contiguous(scale_name, *scale);
    for (int i = 0; i < 3; ++i) require_size(scale_name, *scale, i, k.shape[i]);
  }
}

void kv_write(const TensorView& k, const TensorView& v, const KvCache& cache,
              const TensorView& slots, int threads) {
  FASTSI_CHECK(is_float(k.dtype), "k: is ", name_of(k.dtype), ", must be a floating type");
  const struct {
    const char* name;
    const TensorView& view;
  } both[] = {{"k", k}, {"v", v}};
  for (const auto& [name, view] : both) {
    require_dims(name, view, 3);
    require_dtype(name, view, k.dtype);
    require_dense_last(name, view);
  }
  for (int i = 0; i < 3; ++i) require_size("v", v, i, k.shape[i]);
  const std::int64_t rows = k.shape[0], heads = k.shape[1], dim = k.shape[2];
  check_cache(cache, k.dtype, heads, dim);
  const TensorView& k_cache = cache.k;
  const std::int64_t page_size = k_cache.shape[2], capacity = k_cache.shape[0] * page_size;
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(-1 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in -1..", capacity - 1);
  }
  if (k_cache.dtype == DType::i8) return write_int8(k, v, cache, slot, threads);
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
      copy_row(v, cache.v, r);
    }
  });
}

}  // namespace fastsi
