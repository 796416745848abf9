// Compiled once per instruction set; see linear_int8.h. The integer part is exact and the float
// part has one order of operations, so all of them give the same bits.
#include "amx.h"
#include "int8_rounding.h"
#include "linear_int8.h"
#include "linear_int8_dot.h"
#include "linear_int8_epilogue.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr int W = kLanes<float>;

FASTSI_INLINE const std::int8_t* panel_of(const Int8Task& task, std::int64_t panel) {
  return task.weights + panel * task.steps * kStep * kPanel;
}
FASTSI_INLINE Element* block_of(const Int8Task& task, std::int64_t block) {
  return static_cast<Element*>(task.quantised) + block * task.steps * kStep * kRows;
}

// --- quantisation ------------------------------------------------------------------------------

// Hadamard transform of the first `left` of 64 values, the others 0; strides 32, 16, 8, 4, 2, 1.
FASTSI_INLINE void rotate(const float* from, std::int64_t left, float* to) {
  constexpr int kVectors = kStep / W;
  vf v[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    const std::int64_t here = left - i * W;
    v[i] = here >= W ? load<float>(from + i * W)
                     : (here > 0 ? load_part<float>(from + i * W, static_cast<int>(here)) : vf{});
  }
  for (int stride = kVectors / 2; stride > 0; stride /= 2) {
    for (int i = 0; i < kVectors; ++i) {
      if (i & stride) continue;
      const vf a = v[i], b = v[i + stride];
      v[i] = a + b;
      v[i + stride] = a - b;
    }
  }
  for (int i = 0; i < kVectors; ++i) {
    if constexpr (W > 8) v[i] = butterfly<8>(v[i]);
    if constexpr (W > 4) v[i] = butterfly<4>(v[i]);
    store<float>(to + i * W, butterfly<1>(butterfly<2>(v[i])));
  }
}

// Rotates `depth` values to rotated[steps * 64] and returns the largest magnitude.
FASTSI_INLINE float rotate_all(const float* x, std::int64_t depth, std::int64_t steps,
                               float* rotated) {
  for (std::int64_t s = 0; s < steps; ++s) {
    rotate(x + s * kStep, depth - s * kStep, rotated + s * kStep);
  }
  return largest_magnitude(rotated, steps * kStep);
}

// The largest sum of the positive or the negative ones of four weights of a step that are added in
// 16 bits.
FASTSI_INLINE float largest_quad(const float* step) {
  float largest = 0;
  for (std::int64_t i = 0; i < kStep; i += 8) {
    for (std::int64_t j = i; j < i + 4; j += 2) {
      for (float sign : {1.0f, -1.0f}) {
        const auto part = [&](std::int64_t k) {
          return step[k] * sign > 0 ? step[k] * sign : 0.0f;
        };
        const float sum = (part(j) + part(j + 1)) + (part(j + 4) + part(j + 5));
        largest = sum > largest ? sum : largest;
      }
    }
  }
  return largest;
}

// Rotated values to integers; elements of consecutive steps stand `stride` apart.
template <class T>
FASTSI_INLINE void quantise(const float* rotated, std::int64_t steps, Grain grain, int offset,
                            std::int64_t stride, T* to) {
  const vf inverse = splat<float>(grain.inverse);
  for (std::int64_t s = 0; s < steps; ++s) {
    for (int i = 0; i < kStep; i += W) {
      // Without a usable grain the values may be NaN, which have no integer.
      const vf v = grain.inverse > 0 ? load<float>(rotated + s * kStep + i) * inverse : vf{};
      store_narrow(nearest(v) + offset, to + s * stride + i);
    }
  }
}

// --- multiplication ----------------------------------------------------------------------------

#if defined(FASTSI_AMX)

// Sums of up to two blocks by two panels that wait for their epilogue: [block][row][panel][16].
// It runs between the tile products of the next sums, which leave the vector units idle.
struct Pending {
  alignas(64) std::int32_t sums[2 * kRows * 2 * kPanel];
  const std::int32_t* next = sums;
  std::int64_t row = 0, end = 0;  // rows yet to finish
  std::int64_t panel = 0;
  Finish finish = nullptr;

  void advance(const Int8Task& task, std::int64_t count) {
    if (row >= end) return;
    const std::int64_t to = row + count < end ? row + count : end;
    finish(task, row, to, panel, next, 2 * kPanel);
    next += (to - row) * 2 * kPanel;
    row = to;
  }
};

constexpr int kLine = 64;  // bytes of a cache line

// Sums of B blocks by P panels to `after`, while the epilogue of `before` runs and, at every step,
// the next lines at `ahead` are fetched into cache.
template <int B, int P>
void multiply_tiles(const Int8Task& task, std::int64_t block, std::int64_t panel, Pending& before,
                    Pending& after, const std::int8_t* ahead, int lines) {
  const std::int8_t* a0 = block_of(task, block);
  const std::int8_t* a1 = a0 + task.steps * kStep * kRows;
  const std::int8_t* b0 = panel_of(task, panel);
  const std::int8_t* b1 = b0 + task.steps * kStep * kPanel;
  const int share = static_cast<int>((2 * kRows + task.steps - 1) / task.steps);
  _tile_zero(0);
  if constexpr (P == 2) _tile_zero(1);
  if constexpr (B == 2) _tile_zero(2);
  if constexpr (B == 2 && P == 2) _tile_zero(3);
  for (std::int64_t s = 0; s < task.steps; ++s) {
    const std::int64_t at = s * kStep * kRows;
    _tile_loadd(6, b0 + at, kStep);
    _tile_loadd(4, a0 + at, kStep);
    if constexpr (P == 2) _tile_loadd(7, b1 + at, kStep);
    if constexpr (B == 2) _tile_loadd(5, a1 + at, kStep);
    _tile_dpbssd(0, 4, 6);
    if constexpr (P == 2) _tile_dpbssd(1, 4, 7);
    if constexpr (B == 2) _tile_dpbssd(2, 5, 6);
    if constexpr (B == 2 && P == 2) _tile_dpbssd(3, 5, 7);
    for (int i = 0; i < lines; ++i, ahead += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
    }
    before.advance(task, share);
  }
  before.advance(task, 2 * kRows);
  constexpr int kStride = 2 * kPanel * static_cast<int>(sizeof(std::int32_t));
  _tile_stored(0, after.sums, kStride);
  if constexpr (P == 2) _tile_stored(1, after.sums + kPanel, kStride);
  if constexpr (B == 2) _tile_stored(2, after.sums + 2 * kPanel * kRows, kStride);
  if constexpr (B == 2 && P == 2) {
    _tile_stored(3, after.sums + 2 * kPanel * kRows + kPanel, kStride);
  }
  after.next = after.sums;
  after.row = block * kRows;
  const std::int64_t end = (block + B) * kRows;
  after.end = end < task.rows ? end : task.rows;
  after.panel = panel;
  after.finish = finish_of<P>(task, panel);
}

void multiply(const Int8Task& task, const Int8Range& range) {
  const TileScope tiles;
  Pending pending[2];
  int turn = 0;
  const std::int64_t passes = (range.block_last - range.block_first + 1) / 2;
  for (std::int64_t p = range.panel_first; p < range.panel_last; p += 2) {
    const bool two = p + 1 < range.panel_last;
    // The first pass waits for its panels to come from memory. Later ones have them in cache, and
    // fetch those of the next turn meanwhile, each a share.
    const bool more = passes > 1 && p + 4 <= range.panel_last;
    const int share = more ? static_cast<int>((2 * kPanel + passes - 2) / (passes - 1)) : 0;
    const std::int8_t* ahead = panel_of(task, p + 2);
    int lines = 0;
    for (std::int64_t b = range.block_first; b < range.block_last; b += 2, turn ^= 1) {
      const bool tall = b + 1 < range.block_last;
      const auto run = tall ? (two ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)
                            : (two ? multiply_tiles<1, 2> : multiply_tiles<1, 1>);
      run(task, b, p, pending[turn ^ 1], pending[turn], ahead, lines);
      ahead += lines * kLine * task.steps;
      lines = share;
    }
  }
  pending[turn ^ 1].advance(task, 2 * kRows);
}

#else

template <int R, int P, class Next>
void multiply_rows(const Int8Task& task, std::int64_t row, std::int64_t panel, Next& next) {
  const std::int8_t* panels[P];
  for (int p = 0; p < P; ++p) panels[p] = panel_of(task, panel + p);
  alignas(64) Sum sums[R * P * kPanel];
  // Every row's next outputs lie in another page than those before.
  const std::int64_t column = (task.pair ? panel / 2 : panel) * kPanel;
  for (int r = 0; r < R && !task.stream; ++r) {
    const float* out = task.out + (row + r) * task.out_stride + column;
    for (int p = 0; p < (task.pair ? 1 : P); ++p) __builtin_prefetch(out + p * kPanel, 1, 3);
  }
  const Element* x = block_of(task, row / kRows) + row % kRows * kStep;
  dot<R, P>(task, row, x, panels, panel, next, sums);
  next.at += kPasses<P> * task.steps * next.lines * 64;
  finish_of<P>(task, panel)(task, row, row + R, panel, sums, P * kPanel);
}

template <int P, bool Once>
void multiply_panels(const Int8Task& task, std::int64_t row, std::int64_t end, std::int64_t panel) {
  // Shared by all blocks of rows; what is asked for past the last panel does no harm.
  const std::int64_t turns = (end - row + kMaxRows - 1) / kMaxRows * kPasses<P> * task.steps;
  const std::int64_t lines = P * task.steps * kStep * kPanel / 64;
  NextWeights<Once> next{reinterpret_cast<const char*>(panel_of(task, panel + P)),
                         static_cast<int>((lines + turns - 1) / turns)};
  while (row < end) {
    const std::int64_t left = end - row;
    if constexpr (kMaxRows >= 8) {
      if (left >= 8) {
        multiply_rows<8, P>(task, row, panel, next);
        row += 8;
        continue;
      }
    }
    if constexpr (kMaxRows >= 4) {
      if (left >= 4) {
        multiply_rows<4, P>(task, row, panel, next);
        row += 4;
        continue;
      }
      if (left >= 2) {
        multiply_rows<2, P>(task, row, panel, next);
        row += 2;
        continue;
      }
    }
    multiply_rows<1, P>(task, row, panel, next);
    ++row;
  }
}

template <bool Once>
void multiply(const Int8Task& task, const Int8Range& range) {
  const std::int64_t first = range.block_first * kRows;
  const std::int64_t end =
      range.block_last * kRows < task.rows ? range.block_last * kRows : task.rows;
  for (std::int64_t p = range.panel_first; p < range.panel_last; p += 2) {
    if (p + 1 < range.panel_last) {
      multiply_panels<2, Once>(task, first, end, p);
    } else {
      multiply_panels<1, Once>(task, first, end, p);
    }
  }
}

void multiply(const Int8Task& task, const Int8Range& range) {
  return task.once ? multiply<true>(task, range) : multiply<false>(task, range);
}

#endif

}  // namespace

Int8Format int8_format() { return {sizeof(Element), kStepScales, kStepScales ? kOffset : 128}; }

void int8_quantise(const Int8Task& task, std::int64_t block, float* scratch) {
  Element* to = block_of(task, block);
  for (std::int64_t r = 0; r < kRows; ++r, to += kStep) {
    const std::int64_t row = block * kRows + r;
    if (row >= task.rows && !kWholeBlocks) break;
    Grain grain{0.0f, 0.0f};  // rows that fill up a tile are zeros
    // The product of two rotated vectors is 64 times that of the vectors.
    constexpr float kDivisor = 64.0f;
    constexpr std::int64_t kStride = kRows * kStep;
    if (row < task.rows) {
      const std::int64_t source = task.row_index != nullptr ? task.row_index[row] : row;
      const float* x = task.x + source * task.x_stride;
      if constexpr (kStepScales) {
        for (std::int64_t s = 0; s < task.steps; ++s) {
          const float largest = rotate_all(x + s * kStep, task.depth - s * kStep, 1, scratch);
          grain = grain_of(largest, kRowLevels, kDivisor);
          task.row_scale[row * task.steps + s] = grain.scale;
          quantise(scratch, 1, grain, kOffset, kStride, to + s * kStride);
        }
        continue;
      }
      grain = grain_of(rotate_all(x, task.depth, task.steps, scratch), kRowLevels, kDivisor);
      task.row_scale[row] = grain.scale;
    }
    quantise(scratch, task.steps, grain, kOffset, kStride, to);
  }
}

void int8_multiply(const Int8Task& task, const Int8Range& range) {
  multiply(task, range);
  if (task.stream) drain_stores();
}

void int8_quantise_weight(const float* weight, std::int64_t depth, std::int64_t steps,
                          std::int8_t* values, float* scale, float* scratch) {
  constexpr float kLevels = 127.0f;
  if constexpr (kStepScales) {
    // Rounding adds at most half of each of four integers.
    constexpr float kOfQuad = kLevels / (kInt8Quad - 2);
    for (std::int64_t s = 0; s < steps; ++s) {
      const float one = rotate_all(weight + s * kStep, depth - s * kStep, 1, scratch);
      const float four = largest_quad(scratch) * kOfQuad;
      const Grain grain = grain_of(four > one ? four : one, kLevels, 1.0f);
      scale[s] = grain.scale;
      quantise(scratch, 1, grain, 0, kStep, values + s * kStep);
    }
    return;
  }
  const Grain grain = grain_of(rotate_all(weight, depth, steps, scratch), kLevels, 1.0f);
  *scale = grain.scale;
  quantise(scratch, steps, grain, 0, kStep, values);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
