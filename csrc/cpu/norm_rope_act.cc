#include <algorithm>

#include "fastsi/ops.h"
#include "fastsi/parallel.h"
#include "kernels.h"

namespace fastsi {
namespace {

constexpr std::int64_t kRowsPerTask = 8;

void require_rows(const char* name, const TensorView& view, const TensorView& like) {
  require_dims(name, view, like.dims);
  require_dtype(name, view, like.dtype);
  for (int i = 0; i < like.dims; ++i) require_size(name, view, i, like.shape[i]);
  require_dense_last(name, view);
}

void require_floating(const char* name, const TensorView& view) {
  FASTSI_CHECK(is_float(view.dtype), name, ": is ", name_of(view.dtype),
               ", must be a floating type");
}

// Elements that could be touched in the time one is rotated and written to the KV cache.
constexpr double kElementWork = 4;

template <class Body>
void for_rows(std::int64_t rows, double work, int threads, Body&& body) {
  if (work < serial_elements()) threads = 1;
  parallel_for((rows + kRowsPerTask - 1) / kRowsPerTask, threads, [&](std::int64_t task) {
    const std::int64_t last = std::min(rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < last; ++row) body(row);
  });
}

}  // namespace

void rms_norm(const TensorView& x, const TensorView& weight, double eps, const TensorView* residual,
              const TensorView& out, int threads) {
  require_dims("x", x, 2);
  require_floating("x", x);
  require_dense_last("x", x);
  require_rows("out", out, x);
  vector_of<char>("weight", weight, x.dtype, x.shape[1]);
  NormTask task{x.dtype,    x.data, nullptr,     weight.data, out.data,
                x.shape[1], eps,    x.stride[0], 0,           out.stride[0]};
  if (residual != nullptr) {
    require_rows("residual", *residual, x);
    task.residual = residual->data;
    task.residual_stride = residual->stride[0];
  }
  const Kernels& kernel = kernels();
  for_rows(x.shape[0], static_cast<double>(x.numel()), threads,
           [&](std::int64_t row) { kernel.norm(task, row); });
}

void RopeTask::set_cache(const KvCache& cache, const std::int64_t* slot_of_row) {
  cache_dtype = cache.k.dtype;
  k_cache = cache.k.data;
  v_cache = cache.v.data;
  if (cache.k_scale != nullptr) k_scale = static_cast<float*>(cache.k_scale->data);
  if (cache.v_scale != nullptr) v_scale = static_cast<float*>(cache.v_scale->data);
  slots = slot_of_row;
  kv_heads = cache.k.shape[1];
  page_size = cache.k.shape[2];
  head_dim = cache.k.shape[3];
}

void rope_rows(const RopeTask& task, std::int64_t rows, int threads) {
  const Kernels& kernel = kernels();
  const auto scratch = static_cast<std::size_t>(task.head_dim) * sizeof(double);
  const std::int64_t elements = rows * (task.q_heads + 2 * task.kv_heads) * task.head_dim;
  for_rows(rows, kElementWork * static_cast<double>(elements), threads,
           [&](std::int64_t row) { kernel.rope(task, row, thread_scratch(scratch)); });
}

void rope_kv_write(const TensorView& q, const TensorView& k, const TensorView& v,
                   const RopeTables& tables, const RopeNorms& norms, const KvCache& cache,
                   const TensorView& slots, int threads) {
  const TensorView &cos = tables.cos, &sin = tables.sin;
  require_floating("q", q);
  require_dims("q", q, 3);
  require_dims("k", k, 3);
  require_dense_last("q", q);
  const std::int64_t rows = q.shape[0], dim = q.shape[2], kv_heads = k.shape[1];
  require_dtype("k", k, q.dtype);
  require_size("k", k, 0, rows);
  require_size("k", k, 2, dim);
  require_dense_last("k", k);
  require_rows("v", v, k);
  require_dims("cos", cos, 2);
  require_dtype("cos", cos, q.dtype);
  require_size("cos", cos, 0, rows);
  require_dense_last("cos", cos);
  require_rows("sin", sin, cos);
  FASTSI_CHECK(cos.shape[1] % 2 == 0 && cos.shape[1] <= dim, "cos: rotates ", cos.shape[1],
               " elements of a head, must be even and at most ", dim);
  check_cache(cache, q.dtype, kv_heads, dim);
  const std::int64_t capacity = cache.k.shape[0] * cache.k.shape[2];
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(-1 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in -1..", capacity - 1);
  }
  RopeTask task{};
  task.dtype = q.dtype;
  task.q = q.data;
  task.k = k.data;
  task.v = v.data;
  task.cos = cos.data;
  task.sin = sin.data;
  for (int i = 0; i < 2; ++i) {
    task.q_stride[i] = q.stride[i];
    task.k_stride[i] = k.stride[i];
    task.v_stride[i] = v.stride[i];
  }
  task.cos_stride = cos.stride[0];
  task.sin_stride = sin.stride[0];
  if (norms.q != nullptr) task.q_norm = vector_of<char>("q_norm", *norms.q, q.dtype, dim);
  if (norms.k != nullptr) task.k_norm = vector_of<char>("k_norm", *norms.k, q.dtype, dim);
  task.eps = norms.eps;
  task.q_heads = q.shape[1];
  task.rotary = cos.shape[1];
  task.set_cache(cache, slot);
  rope_rows(task, rows, threads);
}

void act_mul(const TensorView& gate, const TensorView& up, Activation activation,
             const TensorView& out, int threads) {
  require_dims("gate", gate, 2);
  require_floating("gate", gate);
  require_dense_last("gate", gate);
  require_rows("up", up, gate);
  require_rows("out", out, gate);
  const ActTask task{gate.dtype,     gate.data,    up.data,       out.data,  gate.shape[1],
                     gate.stride[0], up.stride[0], out.stride[0], activation};
  const Kernels& kernel = kernels();
  for_rows(gate.shape[0], static_cast<double>(gate.numel()), threads,
           [&](std::int64_t row) { kernel.act(task, row); });
}

}  // namespace fastsi
