// Linear layers over packed panels on the vector unit. Included by the kernels of the types that
// are multiplied so, once per instruction set.
//
// A panel holds kWidth columns of the weights, one row of 4-byte words per step. The micro-kernel
// keeps the sums of kRows rows times one panel in registers; each sum is one chain of multiply-adds
// over k, so its bits depend on nothing but its row and column.
//
// What a step is says a Unit:
//   kInputs     inputs of a step, those in a word of the weights
//   kWords      words of a row per step
//   Value       a step of a row for every column; value(at) reads it
//   Weights     a step of a vector of columns; weights(at) reads it
//   add(value, weights, sum)  the sums after the step
//   row_bytes(task)           that prepare writes for each row, 0 where rows are read as they lie
//   prepare(task, row, to)
#pragma once

#include "linear_epilogue.h"

namespace fastsi {
namespace FASTSI_ISA {

template <class Unit>
struct LinearPanels {
  // Sums, one vector of weights per column group and input and a broadcast fit the register file:
  // 32 of AVX-512, 16 elsewhere.
#if defined(__AVX512F__)
  static constexpr int kVectors = Unit::kInputs == 1 ? 3 : 2, kRows = 8;
#elif defined(__AVX2__)
  static constexpr int kVectors = 2, kRows = Unit::kInputs == 1 ? 6 : 4;
#else
  static constexpr int kVectors = 2, kRows = 4;
#endif
  static constexpr int W = kLanes<float>;
  static constexpr int kWidth = kVectors * W;
  // AVX-512 shares its layout of bfloat16 with AMX, which multiplies 32 k at once.
  static constexpr int kDepthGrain = kWidth == 32 ? 32 : Unit::kInputs;
  static constexpr std::int64_t kChain = 64, kGroup = 8;
  static constexpr std::int64_t kLine = 16;  // words of a cache line
  static constexpr std::int64_t kGroupLines = kGroup * kWidth / kLine;
  // Steps per pass over the rows, whole chains: a panel's part stays in the second-level cache, and
  // so do the rows. All of k where the rows are this small: the parts of a panel then follow each
  // other as they lie in memory.
  static constexpr std::int64_t kPass = 16 * kChain;
  static constexpr std::int64_t kFewInputs = 96 << 10;

  // What is read next, asked for meanwhile, `lines` cache lines per kGroup of steps and one by one:
  // the hardware alone does not look beyond a page of 4 KiB, and drops requests that come in
  // bursts.
  struct Next {
    const float* at;
    std::int64_t lines;
  };

  // sums [Rows][kWidth] += x[rows] . the first vectors of a panel, over `steps` steps. `fresh`: the
  // sums start at 0.
  template <int Rows, int Vectors>
  static void multiply(const float* const* x, const float* panel, std::int64_t steps, bool fresh,
                       Next next, float* sums) {
    std::int64_t s = 0, due = 0;
    do {  // once where there are no steps, so that the sums are set
      const std::int64_t end = steps - s < kChain ? steps : s + kChain;
      vf sum[Rows][Vectors] = {};
      for (; s < end; ++s) {
        for (due += next.lines; due >= kGroup; due -= kGroup, next.at += kLine) {
          __builtin_prefetch(next.at, 0, 2);
        }
        typename Unit::Weights weights[Vectors];
        for (int v = 0; v < Vectors; ++v) weights[v] = Unit::weights(panel + s * kWidth + v * W);
        for (int r = 0; r < Rows; ++r) {
          const typename Unit::Value value = Unit::value(x[r] + s * Unit::kWords);
          for (int v = 0; v < Vectors; ++v) sum[r][v] = Unit::add(value, weights[v], sum[r][v]);
        }
      }
      for (int r = 0; r < Rows; ++r) {
        for (int v = 0; v < Vectors; ++v) {
          float* total = sums + r * kWidth + v * W;
          store(total, fresh ? sum[r][v] : load(total) + sum[r][v]);
        }
      }
      fresh = false;
    } while (s < steps);
  }

  // One entry per row count, so that the last rows take no other order of additions, and per
  // vectors of a panel that hold columns.
  using Multiply = void (*)(const float* const*, const float*, std::int64_t, bool, Next, float*);
  template <int Vectors>
  static Multiply of_rows(int rows) {
    static constexpr Multiply table[] = {
        nullptr,
        multiply<1, Vectors>,
        multiply<2, Vectors>,
        multiply<3, Vectors>,
        multiply<4, Vectors>,
#if defined(__AVX2__)
        multiply<5, Vectors>,
        multiply<6, Vectors>,
#endif
#if defined(__AVX512F__)
        multiply<7, Vectors>,
        multiply<8, Vectors>,
#endif
    };
    return table[rows];
  }
  static Multiply multiply_of(int rows, std::int64_t columns) {
    if (columns <= W) return of_rows<1>(rows);
    if (kVectors == 3 && columns <= 2 * W) return of_rows<2>(rows);
    return of_rows<kVectors>(rows);
  }

  // Of `left` rows, those to take next: the last two blocks are alike, since one or two rows alone
  // do not keep the multipliers busy.
  static int rows_together(std::int64_t left) {
    if (left <= kRows) return static_cast<int>(left);
    return left < 2 * kRows ? static_cast<int>((left + 1) / 2) : kRows;
  }

  static std::int64_t steps_of(const LinearTask& task) {
    return (task.k + Unit::kInputs - 1) / Unit::kInputs;
  }

  static LinearLayout layout() {
    constexpr std::int64_t kRowBytes = Unit::kWords * 4 / Unit::kInputs;
    return {kWidth, W, Unit::kInputs, kDepthGrain, kRows, kRowBytes, kPass * Unit::kInputs, 4};
  }

  // The rows as prepared, then sums [panel][row]; of one panel where all of k is one pass.
  static std::size_t scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
    const std::int64_t kept = steps_of(task) <= kPass ? 1 : panels;
    return static_cast<std::size_t>(rows * Unit::row_bytes(task)) +
           static_cast<std::size_t>(kept * rows * kWidth) * sizeof(float);
  }

  static void prepare(const LinearTask& task, std::int64_t row, std::int64_t rows, void* memory) {
    const std::int64_t bytes = Unit::row_bytes(task);
    for (std::int64_t r = 0; r < rows && bytes > 0; ++r)
      Unit::prepare(task, row + r, static_cast<char*>(memory) + r * bytes);
  }

  static void run(const LinearTask& task, const LinearBlock& block, void* memory) {
    const std::int64_t rows = block.row_last - block.row_first, all = steps_of(task);
    const std::int64_t bytes = Unit::row_bytes(task);
    auto* prepared = static_cast<const char*>(memory);
    auto* all_sums = reinterpret_cast<float*>(static_cast<char*>(memory) + rows * bytes);
    const auto* weights = static_cast<const float*>(task.weights);
    const FinishRows whole = finish_whole_of<kVectors>(task);
    const std::int64_t pass = rows * all <= kFewInputs ? all : kPass;
    std::int64_t begin = 0;
    do {  // once where k is 0, so that the outputs are set
      const std::int64_t left = all - begin, steps = left < pass ? left : pass;
      // Every block of rows asks for its share of the next panel.
      const std::int64_t blocks = (rows + kRows - 1) / kRows;
      const std::int64_t lines = (kGroupLines + blocks - 1) / blocks;
      const std::int64_t share = (steps + kGroup - 1) / kGroup * lines * kLine;
      for (std::int64_t p = block.panel_first; p < block.panel_last; ++p) {
        const float* panel = weights + p * task.panel_stride + begin * kWidth;
        const std::int64_t kept = all <= kPass ? 0 : p - block.panel_first;
        const float* next = panel + task.panel_stride;
        const std::int64_t columns = task.pair ? kWidth : task.n - p * kWidth;
        const FinishRows finish = (p + 1) * kWidth <= task.n ? whole : finish_any<kVectors>;
        int count = 0;
        for (std::int64_t r = 0; r < rows; r += count, next += share) {
          count = rows_together(rows - r);
          const float* x[kRows];
          for (int i = 0; i < count; ++i) {
            x[i] = bytes > 0 ? reinterpret_cast<const float*>(prepared + (r + i) * bytes)
                             : row_of(task, block.row_first + r + i);
            x[i] += begin * Unit::kWords;
            if (steps == left) fetch_outputs(task, block.row_first + r + i, p * kWidth, kWidth);
          }
          float* sums = all_sums + (kept * rows + r) * kWidth;
          multiply_of(count, columns)(x, panel, steps, begin == 0, {next, lines}, sums);
          if (steps == left) finish(task, sums, block.row_first + r, count, p * kWidth);
        }
      }
      begin += steps;
    } while (begin < all);
  }
};

}  // namespace FASTSI_ISA
}  // namespace fastsi
