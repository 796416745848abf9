// What the kernels of linear layers share: where a row lies, and what follows its sums: bias,
// activation (or the product of a gated pair), and the residual. Included by kernels alone, once
// per instruction set, after simd.h.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

// 1 / (1 + exp(-x)), with a relative error below 4e-7.
FASTSI_INLINE vf sigmoid(vf x) {
  vi32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits |= static_cast<std::int32_t>(0x80000000u);
  vf negative;
  std::memcpy(&negative, &bits, sizeof negative);  // -|x|: exp does not overflow
  const vf e = exp_neg(negative);
  return (x < vf{} ? e : splat<float>(1.0f)) / (1.0f + e);
}

// Polynomials of N. Juffa, within one unit in the last place of erf on either side of 475/512.
FASTSI_INLINE vf erf(vf x) {
  vi32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  const vi32 sign = bits & static_cast<std::int32_t>(0x80000000u);
  bits &= 0x7FFFFFFF;
  vf a;
  std::memcpy(&a, &bits, sizeof a);
  const vf s = x * x;
  vf p = splat<float>(-5.96761703e-4f);
  p = fma(p, s, splat<float>(4.99119423e-3f));
  p = fma(p, s, splat<float>(-2.67681349e-2f));
  p = fma(p, s, splat<float>(1.12819925e-1f));
  p = fma(p, s, splat<float>(-3.76125336e-1f));
  p = fma(p, s, splat<float>(1.28379166e-1f));
  const vf small = fma(p, a, a);
  // Beyond 4 the result is 1, and the polynomial would leave its range.
  const vf t = a > splat<float>(4.0f) ? splat<float>(4.0f) : a;
  vf q = fma(splat<float>(-1.72853470e-5f), t, splat<float>(3.83197126e-4f));
  const vf u = fma(splat<float>(-3.88396438e-3f), t, splat<float>(2.42546219e-2f));
  q = fma(q, t * t, u);
  q = fma(q, t, splat<float>(-1.06777877e-1f));
  q = fma(q, t, splat<float>(-6.34846687e-1f));
  q = fma(q, t, splat<float>(-1.28717512e-1f));
  const vf large = 1.0f - exp_neg(fma(q, t, -t));
  vf y = a > splat<float>(0.927734375f) ? large : small;  // a NaN takes the small branch and stays
  vi32 result;
  std::memcpy(&result, &y, sizeof result);
  result |= sign;
  std::memcpy(&y, &result, sizeof y);
  return y;
}

FASTSI_INLINE vf activate(Activation activation, vf x) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu:
      return 0.5f * x * (1.0f + erf(x * 0.70710678f));
    case Activation::gelu_tanh:
      return 0.5f * x * (1.0f + tanh(0.79788456f * fma(0.044715f * x * x, x, x)));
  }
  return x;
}

FASTSI_INLINE const float* row_of(const LinearTask& task, std::int64_t row) {
  return task.x + (task.row_index == nullptr ? row : task.row_index[row]) * task.x_stride;
}

// Bias of the next vector of columns; zeros beyond the last and where there is none.
FASTSI_INLINE vf bias_of(const LinearTask& task, std::int64_t column, std::int64_t left) {
  return task.bias == nullptr ? vf{} : load_lanes(task.bias + column, left);
}

// Writes the outputs of one row for the packed columns [column, column + width): `sums` holds the
// row's sums for them. Both are multiples of a vector, for a pair of two vectors.
FASTSI_INLINE void finish_row(const LinearTask& task, const float* sums, std::int64_t row,
                              std::int64_t column, std::int64_t width) {
  constexpr int W = kLanes<float>;
  const std::int64_t step = task.pair ? 2 * W : W;
  const std::int64_t columns = task.pair ? task.n / 2 : task.n;
  std::int64_t at = task.pair ? column / 2 : column;
  float* out = task.out + row * task.out_stride;
  const float* residual = task.residual + (task.residual ? row * task.residual_stride : 0);
  for (std::int64_t i = 0; i < width && at < columns; i += step, at += W) {
    const std::int64_t left = columns - at;
    const vf first = load(sums + i);
    vf y =
        activate(task.activation, task.bias == nullptr ? first : first + bias_of(task, at, left));
    if (task.pair) {
      const vf second = load(sums + i + W);
      y *= task.bias == nullptr ? second : second + bias_of(task, columns + at, left);
    }
    if (task.residual != nullptr) y += load_lanes(residual + at, left);
    store_as(out + at, y, lanes_of<float>(left));
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
