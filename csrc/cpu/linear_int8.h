// What the int8 kernels take (linear_int8_kernel.cc), raw and already checked by linear_int8.cc.
//
// Every 64 consecutive inputs are rotated by a Hadamard matrix before they are quantised, in the
// weights once and in the rows of each call. The product of two rotated vectors is 64 times the
// product of the two, but an input that is far larger than its neighbours no longer decides the
// grain of the whole row.
//
// Weights are packed in panels of 16 columns: [panels][depth / 4][16][4] int8, the depth filled up
// to whole steps of 64 with zeros. Four consecutive values of a column are what one 32-bit lane of
// a dot product instruction takes, and a step of a panel is one tile of AMX. In a pair, panels
// alternate: 16 columns of the first weight (gate), the same 16 of the second (up).
//
// With step scales, weights have a scale for every step as well. It is so large that of any four
// weights whose products are added in 16 bits (inputs i, i + 1, i + 4, i + 5, i mod 8 = 0 or 2) the
// positive ones come to at most kInt8Quad, and the negative ones too: rows are 0 to 126 there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastsi/ops.h"

namespace fastsi {

inline constexpr std::int64_t kInt8Panel = 16;  // columns
inline constexpr std::int64_t kInt8Rows = 16;   // rows of a block
inline constexpr std::int64_t kInt8Step = 64;   // depth
inline constexpr int kInt8Quad = 260;           // 126 * 260 < 2^15

struct Int8Task {
  const float* x;
  const std::int64_t* row_index;  // null: row r of the output reads row r of x
  const std::int8_t* weights;
  // [panels * 16] or, with step scales, [panels][steps][16]:
  const float* weight_scale;
  const std::int32_t* weight_sum;  // of columns times Int8Format::offset
  const float *bias, *residual;    // null: none
  float* out;
  std::int64_t x_stride, residual_stride, out_stride;
  std::int64_t rows, depth, steps;  // steps: of the depth filled up
  std::int64_t columns;             // of out
  Activation activation;
  bool pair;
  bool stream;  // out is larger than caches and aligned to lines: write past them
  bool once;    // weights are asked for as not to be kept in the last cache
  // Quantised rows: [blocks][steps][16][64] elements as the kernel takes them, and their scales,
  // [rows] or, with step scales, [rows][steps].
  void* quantised;
  float* row_scale;
};

// How an instruction set takes rows and sums of weights.
struct Int8Format {
  std::size_t element_bytes;  // of the quantised rows
  bool step_scales;           // rows have 7 bits, rows and weights a scale for every step
  std::int32_t offset;        // what the sums of weights are multiplied by
};

struct Int8Range {
  std::int64_t block_first, block_last, panel_first, panel_last;
};

#define FASTSI_DECLARE_INT8(isa)                                                         \
  namespace isa {                                                                        \
  Int8Format int8_format();                                                              \
  /* Quantises the rows of a block. scratch: steps * 64 floats. */                       \
  void int8_quantise(const Int8Task& task, std::int64_t block, float* scratch);          \
  /* The output of the blocks and panels of a range. */                                  \
  void int8_multiply(const Int8Task& task, const Int8Range& range);                      \
  /* Quantises the weights of one column to values[steps * 64] and a scale, or steps of  \
     them. scratch: steps * 64 floats. */                                                \
  void int8_quantise_weight(const float* weight, std::int64_t depth, std::int64_t steps, \
                            std::int8_t* values, float* scale, float* scratch);          \
  }
FASTSI_DECLARE_INT8(portable)
FASTSI_DECLARE_INT8(avx2)
FASTSI_DECLARE_INT8(avx2_vnni)
FASTSI_DECLARE_INT8(avx512)
FASTSI_DECLARE_INT8(avx512_vnni)
FASTSI_DECLARE_INT8(amx)
#undef FASTSI_DECLARE_INT8

}  // namespace fastsi
