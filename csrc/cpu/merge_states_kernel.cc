// Compiled once per instruction set; see kernels.h.
#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr int kChunk = 8;  // vectors of a row that are summed in registers

template <class S>
void merge_row(const MergeTask& task, std::int64_t row) {
  using T = Arith<S>;
  constexpr int W = kLanes<T>;
  const auto n = task.n, dim = task.head_dim;
  for (std::int64_t h = 0; h < task.heads; ++h) {
    const auto* lses =
        static_cast<const T*>(task.lses) + row * task.lses_stride[1] + h * task.lses_stride[2];
    const auto* outs =
        static_cast<const S*>(task.outs) + row * task.outs_stride[1] + h * task.outs_stride[2];
    T top = -INFINITY;
    for (std::int64_t i = 0; i < n; ++i) {
      const T x = lses[i * task.lses_stride[0]];
      top = x > top ? x : top;
    }
    // Where every partial is empty, a finite top makes all weights exp(-inf) = 0, without a NaN.
    const T base = top == -INFINITY ? T{0} : top;
    const auto weight = [&](std::int64_t i) {
      return std::exp(lses[i * task.lses_stride[0]] - base);
    };
    T total = 0;
    for (std::int64_t i = 0; i < n; ++i) total += weight(i);
    const T inverse = total > 0 || total != total ? T{1} / total : T{0};
    auto* out = static_cast<S*>(task.out) + (row * task.heads + h) * dim;
    for (std::int64_t d = 0; d < dim; d += kChunk * W) {
      const std::int64_t width = dim - d < kChunk * W ? dim - d : kChunk * W;
      Vec<T> sum[kChunk] = {};
      for (std::int64_t i = 0; i < n; ++i) {
        const S* from = outs + i * task.outs_stride[0] + d;
        const Vec<T> share = splat<T>(weight(i) * inverse);
        for (int j = 0; j * W < width; ++j)
          sum[j] = fma(load_lanes(from + j * W, width - j * W), share, sum[j]);
      }
      for (int j = 0; j * W < width; ++j)
        store_as<S>(out + d + j * W, sum[j], lanes_of<T>(width - j * W));
    }
    static_cast<T*>(task.lse)[row * task.heads + h] = base + std::log(total);
  }
}

}  // namespace

void merge(const MergeTask& task, std::int64_t row) {
  switch (task.dtype) {
    case DType::f32:
      return merge_row<float>(task, row);
    case DType::f64:
      return merge_row<double>(task, row);
    case DType::bf16:
      return merge_row<bf16>(task, row);
    default:
      return merge_row<f16>(task, row);
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
