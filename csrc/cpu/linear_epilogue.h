// What the kernels of linear layers share: where a row lies, and what follows its sums: bias,
// activation (or the product of a gated pair), and the residual. Included by kernels alone, once
// per instruction set, after simd.h.
#pragma once

#include "activations.h"
#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

FASTSI_INLINE const float* row_of(const LinearTask& task, std::int64_t row) {
  return task.x + (task.row_index == nullptr ? row : task.row_index[row]) * task.x_stride;
}

// Bias of the next vector of columns; zeros beyond the last and where there is none.
FASTSI_INLINE vf bias_of(const LinearTask& task, std::int64_t column, std::int64_t left) {
  return task.bias == nullptr ? vf{} : load_lanes(task.bias + column, left);
}

// Asks for the memory that finish_row will write: panels are finished one after another, so every
// row's next outputs lie in another page.
FASTSI_INLINE void fetch_outputs(const LinearTask& task, std::int64_t row, std::int64_t column,
                                 std::int64_t width) {
  const std::int64_t at = task.pair ? column / 2 : column, count = task.pair ? width / 2 : width;
  const float* out = task.out + row * task.out_stride + at;
  constexpr std::int64_t kLine = 64 / static_cast<int>(sizeof(float));
  for (std::int64_t i = 0; i < count; i += kLine) __builtin_prefetch(out + i, 1, 3);
}

// Writes the outputs of one row for the packed columns [column, column + width): `sums` holds the
// row's sums for them; see panels_of in linear.cc for those of a pair.
FASTSI_INLINE void finish_row(const LinearTask& task, const float* sums, std::int64_t row,
                              std::int64_t column, std::int64_t width) {
  constexpr int W = kLanes<float>;
  const std::int64_t span = task.pair ? width / 2 : width;
  const std::int64_t columns = task.pair ? task.n / 2 : task.n;
  std::int64_t at = task.pair ? column / 2 : column;
  float* out = task.out + row * task.out_stride;
  const float* residual = task.residual + (task.residual ? row * task.residual_stride : 0);
  for (std::int64_t i = 0; i < span && at < columns; i += W, at += W) {
    const std::int64_t left = columns - at < span - i ? columns - at : span - i;
    const vf first = load_lanes(sums + i, left);
    vf y = activate<float>(task.activation,
                           task.bias == nullptr ? first : first + bias_of(task, at, left));
    if (task.pair) {
      const bool whole = i + W <= span;
      const vf second = load_lanes(sums + (whole ? width - span / W * W + i : span), left);
      y *= task.bias == nullptr ? second : second + bias_of(task, columns + at, left);
    }
    if (task.residual != nullptr) y += load_lanes(residual + at, left);
    store_as(out + at, y, lanes_of<float>(left));
  }
}

// Finishes `rows` rows from `row` on, whose sums follow each other, each of kVectors vectors.
using FinishRows = void (*)(const LinearTask& task, const float* sums, std::int64_t row, int rows,
                            std::int64_t column);

template <int kVectors>
void finish_any(const LinearTask& task, const float* sums, std::int64_t row, int rows,
                std::int64_t column) {
  constexpr std::int64_t kWidth = kVectors * kLanes<float>;
  for (int i = 0; i < rows; ++i) finish_row(task, sums + i * kWidth, row + i, column, kWidth);
}

// finish_row without its questions, for a panel whose columns are all there. A pair has no bias.
template <int kVectors, Activation kind, bool kPair, bool kBias, bool kResidual>
void finish_whole(const LinearTask& task, const float* sums, std::int64_t row, int rows,
                  std::int64_t column) {
  static_assert(!(kPair && (kBias || kResidual)));
  constexpr std::int64_t W = kLanes<float>, kSpan = kVectors * W / (kPair ? 2 : 1);
  const std::int64_t at = kPair ? column / 2 : column;
  for (int i = 0; i < rows; ++i, ++row, sums += kVectors * W) {
    float* out = task.out + row * task.out_stride + at;
    for (std::int64_t c = 0; c < kSpan; c += W) {  // the last one of a pair may be half a vector
      vf y = load_lanes(sums + c, kSpan - c);
      if constexpr (kBias) y = y + load(task.bias + at + c);
      y = activate<float>(kind, y);
      if constexpr (kPair) {
        const bool whole = c + W <= kSpan;
        y *= load_lanes(sums + (whole ? kVectors * W - kSpan / W * W + c : kSpan), kSpan - c);
      }
      if constexpr (kResidual) y += load(task.residual + row * task.residual_stride + at + c);
      store_as(out + c, y, lanes_of<float>(kSpan - c));
    }
  }
}

// For whole panels: what layers of decoders are, or any.
template <int kVectors>
FinishRows finish_whole_of(const LinearTask& task) {
  using A = Activation;
  const bool bias = task.bias != nullptr, residual = task.residual != nullptr;
  if (task.pair) {
    const bool plain = task.activation == A::silu && !bias && !residual;
    return plain ? finish_whole<kVectors, A::silu, true, false, false> : finish_any<kVectors>;
  }
  if (task.activation != A::none) return finish_any<kVectors>;
  if (bias) {
    return residual ? finish_whole<kVectors, A::none, false, true, true>
                    : finish_whole<kVectors, A::none, false, true, false>;
  }
  return residual ? finish_whole<kVectors, A::none, false, false, true>
                  : finish_whole<kVectors, A::none, false, false, false>;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
