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

template <class Body>
void for_rows(std::int64_t rows, std::int64_t elements, int threads, Body&& body) {
  if (static_cast<double>(elements) < kSerialElements) threads = 1;
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
  for_rows(x.shape[0], x.numel(), threads, [&](std::int64_t row) { kernel.norm(task, row); });
}

void rope_kv_write(const TensorView& q, const TensorView& k, const TensorView& v,
                   const RopeTables& tables, const RopeNorms& norms, const TensorView& k_cache,
                   const TensorView& v_cache, const TensorView& slots, int threads) {
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
  require_dims("k_cache", k_cache, 4);
  require_cache_dtype("k_cache", k_cache, q.dtype);
  require_size("k_cache", k_cache, 1, kv_heads);
  require_size("k_cache", k_cache, 3, dim);
  require_contiguous("k_cache", k_cache);
  require_rows("v_cache", v_cache, k_cache);
  require_contiguous("v_cache", v_cache);
  const std::int64_t page_size = k_cache.shape[2], capacity = k_cache.shape[0] * page_size;
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(-1 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in -1..", capacity - 1);
  }
  RopeTask task{};
  task.dtype = q.dtype;
  task.cache_dtype = k_cache.dtype;
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
  task.k_cache = k_cache.data;
  task.v_cache = v_cache.data;
  task.slots = slot;
  task.q_heads = q.shape[1];
  task.kv_heads = kv_heads;
  task.head_dim = dim;
  task.rotary = cos.shape[1];
  task.page_size = page_size;
  const Kernels& kernel = kernels();
  for_rows(rows, q.numel() + 2 * k.numel(), threads, [&](std::int64_t row) {
    kernel.rope(task, row, thread_scratch(static_cast<std::size_t>(dim) * sizeof(double)));
  });
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
  for_rows(gate.shape[0], gate.numel(), threads, [&](std::int64_t row) { kernel.act(task, row); });
}

}  // namespace fastsi
