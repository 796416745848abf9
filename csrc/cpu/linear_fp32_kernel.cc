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
constexpr int kVectors = 2, kRows = 8;
#elif defined(__AVX2__)
constexpr int kVectors = 2, kRows = 6;
#else
constexpr int kVectors = 2, kRows = 4;
#endif
constexpr int W = kLanes<float>;
constexpr int kWidth = kVectors * W;
// AVX-512 shares its layout with AMX, which multiplies 32 k at once.
constexpr int kDepthGrain = kWidth == 32 ? 32 : 1;
constexpr std::int64_t kChain = 64, kGroup = 8;
constexpr std::int64_t kGroupLines = kGroup * kWidth * static_cast<int>(sizeof(float)) / 64;
// k per pass over the rows, whole chains: a panel's part stays in the second-level cache.
constexpr std::int64_t kDepth = 16 * kChain;

// sums [Rows][kWidth] += x[rows] . panel over k in [0, depth). `fresh`: the sums start at 0. Asks
// for `lines` cache lines of the weights at `next` per kGroup of k: the hardware alone does not
// look beyond a page of 4 KiB.
template <int Rows>
void multiply(const float* const* x, const float* panel, std::int64_t depth, bool fresh,
              const float* next, std::int64_t lines, float* sums) {
  std::int64_t k = 0;
  do {  // once where depth is 0, so that the sums are set
    const std::int64_t chain_end = depth - k < kChain ? depth : k + kChain;
    vf sum[Rows][kVectors] = {};
    while (k < chain_end) {
      for (std::int64_t i = 0; i < lines; ++i, next += 16) __builtin_prefetch(next, 0, 2);
      const std::int64_t end = chain_end - k < kGroup ? chain_end : k + kGroup;
      for (; k < end; ++k) {
        vf weight[kVectors];
        for (int v = 0; v < kVectors; ++v) weight[v] = load(panel + k * kWidth + v * W);
        for (int r = 0; r < Rows; ++r) {
          const vf value = splat(x[r][k]);
          for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(value, weight[v], sum[r][v]);
        }
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
using Multiply = void (*)(const float* const*, const float*, std::int64_t, bool, const float*,
                          std::int64_t, float*);
constexpr Multiply kMultiply[] = {
    nullptr,     multiply<1>, multiply<2>, multiply<3>, multiply<4>,
#if defined(__AVX2__)
    multiply<5>, multiply<6>,
#endif
#if defined(__AVX512F__)
    multiply<7>, multiply<8>,
#endif
};

// Of `left` rows, those to take next: the last two blocks are alike, since one or two rows alone do
// not fill the pipeline of multiply-adds.
int rows_together(std::int64_t left) {
  if (left <= kRows) return static_cast<int>(left);
  return left < 2 * kRows ? static_cast<int>((left + 1) / 2) : kRows;
}

}  // namespace

LinearLayout linear_fp32_layout() { return {kWidth, W, kDepthGrain, kRows, sizeof(float), kDepth}; }

// Sums [panel][row]; of one panel where all of k is one pass.
std::size_t linear_fp32_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  const std::int64_t kept = task.k <= kDepth ? 1 : panels;
  return static_cast<std::size_t>(kept * rows * kWidth) * sizeof(float);
}

// Rows are read where they lie.
void linear_fp32_prepare(const LinearTask&, std::int64_t, std::int64_t, std::int64_t, void*) {}

void linear_fp32(const LinearTask& task, const LinearBlock& block, void* scratch) {
  const std::int64_t rows = block.row_last - block.row_first;
  std::int64_t begin = 0;
  do {  // once where k is 0, so that the outputs are set
    const std::int64_t left = task.k - begin, depth = left < kDepth ? left : kDepth;
    // Every block of rows asks for its share of the next panel.
    const std::int64_t blocks = (rows + kRows - 1) / kRows;
    const std::int64_t lines = (kGroupLines + blocks - 1) / blocks;
    const std::int64_t share = (depth + kGroup - 1) / kGroup * lines * 16;
    for (std::int64_t p = block.panel_first; p < block.panel_last; ++p) {
      const float* panel = task.weights + p * task.panel_stride + begin * kWidth;
      const std::int64_t kept = task.k <= kDepth ? 0 : p - block.panel_first;
      const float* next = panel + task.panel_stride;
      int count = 0;
      for (std::int64_t r = 0; r < rows; r += count, next += share) {
        count = rows_together(rows - r);
        const float* x[kRows];
        for (int i = 0; i < count; ++i) {
          x[i] = row_of(task, block.row_first + r + i) + begin;
          if (depth == left) fetch_outputs(task, block.row_first + r + i, p * kWidth, kWidth);
        }
        float* sums = static_cast<float*>(scratch) + (kept * rows + r) * kWidth;
        kMultiply[count](x, panel, depth, begin == 0, next, lines, sums);
        if (depth < left) continue;
        for (int i = 0; i < count; ++i)
          finish_row(task, sums + i * kWidth, block.row_first + r + i, p * kWidth, kWidth);
      }
    }
    begin += depth;
  } while (begin < task.k);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
