// Compiled once per instruction set; see kernels.h.
//
// A panel holds kWidth columns of the weights, one vector row per k. The micro-kernel keeps the
// sums of kRows rows times one panel in registers and reads the rows where they lie; each sum is
// one chain of multiply-adds over k, so its bits depend on nothing but its row and column.
#include "linear_epilogue.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

// Sums, one vector of weights per column group and a broadcast fit the register file: 32 of
// AVX-512, 16 elsewhere.
#if defined(__AVX512F__)
constexpr int kVectors = 4, kRows = 6;
#elif defined(__AVX2__)
constexpr int kVectors = 2, kRows = 6;
#else
constexpr int kVectors = 2, kRows = 4;
#endif
constexpr int W = kLanes<float>;
constexpr int kWidth = kVectors * W;
constexpr std::int64_t kChain = 64;
// k per pass over the rows, whole chains: a panel's part stays in the second-level cache.
constexpr std::int64_t kDepth = 16 * kChain;

// sums [Rows][kWidth] += x[rows] . panel over k in [0, depth). `fresh`: the sums start at 0.
template <int Rows>
void multiply(const float* const* x, const float* panel, std::int64_t depth, bool fresh,
              float* sums) {
  std::int64_t k = 0;
  do {  // once where depth is 0, so that the sums are set
    const std::int64_t end = depth - k < kChain ? depth : k + kChain;
    vf sum[Rows][kVectors] = {};
    for (; k < end; ++k) {
      vf weight[kVectors];
      for (int v = 0; v < kVectors; ++v) weight[v] = load(panel + k * kWidth + v * W);
      for (int r = 0; r < Rows; ++r) {
        const vf value = splat(x[r][k]);
        for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(value, weight[v], sum[r][v]);
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* total = sums + r * kWidth + v * W;
        store(total, fresh ? sum[r][v] : load(total) + sum[r][v]);
      }
    }
    fresh = false;
  } while (k < depth);
}

// One table entry per row count, so that the last rows take no other order of additions.
using Multiply = void (*)(const float* const*, const float*, std::int64_t, bool, float*);
constexpr Multiply kMultiply[] = {nullptr,     multiply<1>, multiply<2>, multiply<3>, multiply<4>,
#if defined(__AVX2__)
                                  multiply<5>, multiply<6>
#endif
};

const float* row_of(const LinearTask& task, std::int64_t row) {
  const std::int64_t source = task.row_index == nullptr ? row : task.row_index[row];
  return task.x + source * task.x_stride;
}

}  // namespace

LinearLayout linear_fp32_layout() { return {kWidth, W, kRows}; }

std::size_t linear_fp32_scratch(const LinearTask&, const LinearBlock& block) {
  return static_cast<std::size_t>((block.row_last - block.row_first) * kWidth) * sizeof(float);
}

void linear_fp32(const LinearTask& task, const LinearBlock& block, void* scratch) {
  auto* sums = static_cast<float*>(scratch);
  for (std::int64_t p = block.panel_first; p < block.panel_last; ++p) {
    const float* panel = static_cast<const float*>(task.weights) + p * task.k * kWidth;
    std::int64_t begin = 0;
    do {  // once more than never, so that k = 0 gives zeros
      const std::int64_t depth = task.k - begin < kDepth ? task.k - begin : kDepth;
      const bool last = begin + depth >= task.k;
      for (std::int64_t row = block.row_first; row < block.row_last; row += kRows) {
        const std::int64_t left = block.row_last - row;
        const int rows = left < kRows ? static_cast<int>(left) : kRows;
        const float* x[kRows];
        for (int r = 0; r < rows; ++r) x[r] = row_of(task, row + r) + begin;
        float* at = sums + (row - block.row_first) * kWidth;
        kMultiply[rows](x, panel + begin * kWidth, depth, begin == 0, at);
        for (int r = 0; last && r < rows; ++r) {
          finish_row(task, at + r * kWidth, row + r, p * kWidth, kWidth);
        }
      }
      begin += depth;
    } while (begin < task.k);
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
