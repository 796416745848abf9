// Compiled once per instruction set; see kernels.h.
#include "activations.h"
#include "kernels.h"
#include "kv_quant.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

// 1 / sqrt(mean of squares + eps). Four sums, so that additions need not wait for one another.
template <class S>
Arith<S> inverse_rms(const S* x, std::int64_t size, double eps) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  Vec<T> sum[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * W <= size; i += 4 * W) {
    for (int j = 0; j < 4; ++j) {
      const Vec<T> v = load_as<S>(x + i + j * W);
      sum[j] = fma(v, v, sum[j]);
    }
  }
  for (; i < size; i += W) {
    const Vec<T> v = load_lanes(x + i, size - i);
    sum[0] = fma(v, v, sum[0]);
  }
  const T squares = sum_of<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return T{1} / std::sqrt(squares / static_cast<T>(size) + static_cast<T>(eps));
}

// out = x * inverse_rms(x) * weight; S is what x is stored in, O what out is.
template <class S, class O>
void scale_row(const S* x, const O* weight, double eps, std::int64_t size, Arith<S>* out) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const Vec<T> factor = splat<T>(inverse_rms(x, size, eps));
  for (std::int64_t i = 0; i < size; i += W) {
    const Vec<T> y = load_lanes(x + i, size - i) * factor * load_lanes(weight + i, size - i);
    store_as<T>(out + i, y, lanes_of<T>(size - i));
  }
}

template <class S>
void norm_row(const NormTask& task, std::int64_t row) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const auto* x = static_cast<const S*>(task.x) + row * task.x_stride;
  auto* out = static_cast<S*>(task.out) + row * task.out_stride;
  const auto* weight = static_cast<const S*>(task.weight);
  if (task.residual != nullptr) {
    auto* residual = static_cast<S*>(task.residual) + row * task.residual_stride;
    for (std::int64_t i = 0; i < task.size; i += W) {
      const Vec<T> y = load_lanes(x + i, task.size - i) + load_lanes(residual + i, task.size - i);
      store_as<S>(residual + i, y, lanes_of<T>(task.size - i));
    }
    x = residual;
  }
  const Vec<T> factor = splat<T>(inverse_rms(x, task.size, task.eps));
  for (std::int64_t i = 0; i < task.size; i += W) {
    const std::int64_t left = task.size - i;
    const Vec<T> y = load_lanes(x + i, left) * factor * load_lanes(weight + i, left);
    store_as<S>(out + i, y, lanes_of<T>(left));
  }
}

// One head, normalised where the model asks for it, as arithmetic values.
template <class S>
void load_head(const S* head, const void* norm, double eps, std::int64_t dim, Arith<S>* out) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  if (norm != nullptr) return scale_row(head, static_cast<const S*>(norm), eps, dim, out);
  for (std::int64_t i = 0; i < dim; i += W) {
    store_as<T>(out + i, load_lanes(head + i, dim - i), lanes_of<T>(dim - i));
  }
}

// Rotates element i with element i + rotary / 2. Two products and one sum, each rounded, as in the
// definition: the bits are then those of plain arithmetic.
template <class S>
void rotate(const S* cos, const S* sin, std::int64_t rotary, Arith<S>* head) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const std::int64_t half = rotary / 2;
  for (std::int64_t i = 0; i < half; i += W) {
    const std::int64_t left = half - i;
    const int n = lanes_of<T>(left);
    const Vec<T> a = load_lanes(head + i, left), b = load_lanes(head + half + i, left);
    const Vec<T> low = a * load_lanes(cos + i, left) - b * load_lanes(sin + i, left);
    const Vec<T> high = b * load_lanes(cos + half + i, left) + a * load_lanes(sin + half + i, left);
    store_as<T>(head + i, low, n);
    store_as<T>(head + half + i, high, n);
  }
}

template <class To, class T>
void convert(const T* from, std::int64_t count, To* to) {
  constexpr int W = kLanes<T>;
  for (std::int64_t i = 0; i < count; i += W) {
    store_as<To>(to + i, load_lanes(from + i, count - i), lanes_of<T>(count - i));
  }
}

// A head of keys or values to its place in the cache.
template <class C, class T>
void keep_head(T* head, std::int64_t dim, bool key, std::int64_t token, void* cache, float* scale) {
  C* to = static_cast<C*>(cache) + token * dim;
  if constexpr (sizeof(C) == 1) {
    if (key) rotate_head(head, dim);
    scale[token] = quantise_head(head, dim, kInt8Levels, 0, to);
  } else {
    convert(head, dim, to);
  }
}

template <class S, class C>
void rope_row(const RopeTask& task, std::int64_t row, void* scratch) {
  using T = Arith<S>;
  auto* head = static_cast<T*>(scratch);
  const auto dim = task.head_dim;
  const auto* cos = static_cast<const S*>(task.cos) + row * task.cos_stride;
  const auto* sin = static_cast<const S*>(task.sin) + row * task.sin_stride;
  for (std::int64_t h = 0; h < task.q_heads; ++h) {
    auto* q = static_cast<S*>(task.q) + row * task.q_stride[0] + h * task.q_stride[1];
    load_head(q, task.q_norm, task.eps, dim, head);
    rotate(cos, sin, task.rotary, head);
    convert(head, dim, q);
  }
  const std::int64_t slot = task.slots[row];
  if (slot < 0) return;
  const std::int64_t page = slot / task.page_size, offset = slot % task.page_size;
  for (std::int64_t h = 0; h < task.kv_heads; ++h) {
    const std::int64_t token = (page * task.kv_heads + h) * task.page_size + offset;
    const auto* k = static_cast<const S*>(task.k) + row * task.k_stride[0] + h * task.k_stride[1];
    const auto* v = static_cast<const S*>(task.v) + row * task.v_stride[0] + h * task.v_stride[1];
    load_head(k, task.k_norm, task.eps, dim, head);
    rotate(cos, sin, task.rotary, head);
    keep_head<C>(head, dim, true, token, task.k_cache, task.k_scale);
    load_head(v, nullptr, 0.0, dim, head);
    keep_head<C>(head, dim, false, token, task.v_cache, task.v_scale);
  }
}

template <class S>
void act_row(const ActTask& task, std::int64_t row) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const auto* gate = static_cast<const S*>(task.gate) + row * task.gate_stride;
  const auto* up = static_cast<const S*>(task.up) + row * task.up_stride;
  auto* out = static_cast<S*>(task.out) + row * task.out_stride;
  for (std::int64_t i = 0; i < task.size; i += W) {
    const std::int64_t left = task.size - i;
    const Vec<T> x = load_lanes(gate + i, left);
    const Vec<T> y = activate<T>(task.activation, x);
    store_as<S>(out + i, y * load_lanes(up + i, left), lanes_of<T>(left));
  }
}

}  // namespace

void norm(const NormTask& task, std::int64_t row) {
  switch (task.dtype) {
    case DType::f32:
      return norm_row<float>(task, row);
    case DType::f64:
      return norm_row<double>(task, row);
    case DType::bf16:
      return norm_row<bf16>(task, row);
    default:
      return norm_row<f16>(task, row);
  }
}

void rope(const RopeTask& task, std::int64_t row, void* scratch) {
  switch (task.dtype) {
    case DType::f32:
      if (task.cache_dtype == DType::bf16) return rope_row<float, bf16>(task, row, scratch);
      if (task.cache_dtype == DType::i8) return rope_row<float, std::int8_t>(task, row, scratch);
      return rope_row<float, float>(task, row, scratch);
    case DType::f64:
      return rope_row<double, double>(task, row, scratch);
    case DType::bf16:
      return rope_row<bf16, bf16>(task, row, scratch);
    default:
      return rope_row<f16, f16>(task, row, scratch);
  }
}

void act(const ActTask& task, std::int64_t row) {
  switch (task.dtype) {
    case DType::f32:
      return act_row<float>(task, row);
    case DType::f64:
      return act_row<double>(task, row);
    case DType::bf16:
      return act_row<bf16>(task, row);
    default:
      return act_row<f16>(task, row);
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
