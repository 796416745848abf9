// Linear layers over packed panels on the tile unit (AMX). Included by the kernels of the types
// that are multiplied so.
//
// A panel has 32 columns, two tiles of sums beside each other; rows go in tiles of 16, two at a
// time. A step is 32 k. What a step is made of says a Unit:
//   kRowBytes        of a tile of rows as prepared, per step
//   kInputs          of a column in a word of a panel
//   kLeastBytes      as LinearLayout::least_bytes
//   step_words(task) 4-byte words of a panel per step
//   kWeightBytes     scratch of its own
//   kPass            steps per pass over the rows of an item
//   prepare(low, high, to)  one row of a step, its two halves of 16 k
//   products(task)   products of tiles per step, those beside each other counted as one
//   multiply(task, use, both, x, next_rows, panel, steps, beside, scratch)
//                    adds rows times `steps` steps of a panel, kPass at the most, to the sums,
//                    tiles 0 to 3
#pragma once

#include "amx.h"
#include "linear_epilogue.h"

namespace fastsi {
namespace FASTSI_ISA {

// Rows of sums that are there but not finished yet.
class Unfinished {
 public:
  explicit Unfinished(const LinearTask& task) : task_(task) {}
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;

  // In place of those held, which must be finished.
  void hold(FinishRows finish, const float* sums, std::int64_t row, int rows, std::int64_t column) {
    finish_ = finish;
    sums_ = sums;
    row_ = row;
    rows_ = rows;
    column_ = column;
  }
  void finish(int most) {
    const int rows = rows_ < most ? rows_ : most;
    if (rows == 0) return;
    finish_(task_, sums_, row_, rows, column_);
    sums_ += rows * 2 * kTileRows;
    row_ += rows;
    rows_ -= rows;
  }
  void finish_all() { finish(rows_); }

 private:
  const LinearTask& task_;
  FinishRows finish_ = nullptr;
  const float* sums_ = nullptr;
  std::int64_t row_ = 0, column_ = 0;
  int rows_ = 0;
};

// What is done while tiles are multiplied. After each product weights are asked for, so many cache
// lines: the hardware alone does not look beyond a page of 4 KiB. After each step rows of the block
// before are finished, so many that all of them are.
struct Beside {
  const float* next;
  std::int64_t lines;
  Unfinished& unfinished;
  int rows;

  __attribute__((always_inline)) void after_product() {
    const float* const end = next + lines * 16;
    for (; next < end; next += 16) _mm_prefetch(next, _MM_HINT_T1);
  }
  __attribute__((always_inline)) void after_step() { unfinished.finish(rows); }
};

// Of a part of a panel, in one item: for one block of rows alone, for the first one of several, or
// for another one.
enum class Use { once, first, again };

template <class Unit>
struct LinearTiles {
  static constexpr std::int64_t kWidth = 32;      // columns of a panel: two tiles of sums
  static constexpr std::int64_t kStepDepth = 32;  // k of a tile: 16 pairs
  static constexpr std::int64_t kPass = Unit::kPass;
  static constexpr std::int64_t kSums = 2 * kTileRows * kWidth;  // of two tiles of rows
  // Words of weights asked for ahead where they are used once, some 12 KB: less hides too little,
  // and more is cold at the beginning of a call and asked for in vain at its end.
  static constexpr std::int64_t kAhead = 3 << 10;

  static std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

  // Where an item keeps what: the unit's scratch, sums [panel][two tiles of rows] (those of two
  // blocks in turns where all of k is one pass), and the rows as prepared [tile of rows][step].
  struct Scratch {
    std::int64_t steps, tiles, sums;
    char *weights, *prepared;
    float* first_sums;

    Scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels, void* memory)
        : steps(ceil_div(task.k, kStepDepth)),
          tiles(ceil_div(rows, kTileRows)),
          sums(tiles <= 2 || steps <= kPass ? 2 : panels * ceil_div(tiles, 2)),
          weights(static_cast<char*>(memory)),
          prepared(weights + Unit::kWeightBytes +
                   sums * kSums * static_cast<std::int64_t>(sizeof(float))),
          first_sums(reinterpret_cast<float*>(weights + Unit::kWeightBytes)) {}

    char* rows(std::int64_t tile, std::int64_t step) const {
      return prepared + (tile * steps + step) * Unit::kRowBytes;
    }
    float* sums_of(std::int64_t panel, std::int64_t tile) const {
      return first_sums + (panel * ceil_div(tiles, 2) + tile / 2) % sums * kSums;
    }
  };

  static LinearLayout layout() {
    constexpr std::int64_t kBytes = Unit::kRowBytes / (kTileRows * kStepDepth);
    // Rows are prepared whole, so more of them is kept than the passes read again and again.
    constexpr std::int64_t kKept = 2 * kPass * kStepDepth;
    return {kWidth,        kTileRows, Unit::kInputs, kStepDepth,
            2 * kTileRows, kBytes,    kKept,         Unit::kLeastBytes};
  }

  static std::size_t scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
    const Scratch found(task, rows, panels, nullptr);
    return static_cast<std::size_t>(found.rows(found.tiles, 0) - found.weights);
  }

  static void prepare(const LinearTask& task, std::int64_t row, std::int64_t rows,
                      std::int64_t panels, void* memory) {
    const Scratch scratch(task, rows, panels, memory);
    for (std::int64_t tile = 0; tile < scratch.tiles; ++tile) {
      const float* x[kTileRows];  // the rows that fill the last tile are zeros
      const std::int64_t first = tile * kTileRows;
      const std::int64_t used = rows - first < kTileRows ? rows - first : kTileRows;
      for (std::int64_t r = 0; r < used; ++r) x[r] = row_of(task, row + first + r);
      for (std::int64_t step = 0, k = 0; step < scratch.steps; ++step, k += kStepDepth) {
        const std::int64_t left = task.k - k;
        const auto mask = left >= kStepDepth ? ~0u : (1u << left) - 1;
        const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
        char* to = scratch.rows(tile, step);
        for (std::int64_t r = 0; r < used; ++r, to += kTileRowBytes) {
          for (std::int64_t part = 0; part < Unit::kRowBytes; part += kTileBytes) {
            __builtin_prefetch(to + 2 * Unit::kRowBytes + part, 1, 3);  // weights pushed it out
          }
          Unit::prepare(_mm512_maskz_loadu_ps(low, x[r] + k),
                        _mm512_maskz_loadu_ps(high, x[r] + k + kStepDepth / 2), to);
        }
        for (std::int64_t r = used; r < kTileRows; ++r, to += kTileRowBytes) {
          Unit::prepare(_mm512_setzero_ps(), _mm512_setzero_ps(), to);
        }
      }
    }
  }

  // Sums of one or two tiles of rows, to the tiles or back to memory.
  static void load_sums(const float* sums, bool both) {
    constexpr std::int64_t kRowBytes = kWidth * sizeof(float);
    _tile_loadd(0, sums, kRowBytes);
    _tile_loadd(1, sums + kTileRows, kRowBytes);
    if (!both) return;
    _tile_loadd(2, sums + kSums / 2, kRowBytes);
    _tile_loadd(3, sums + kSums / 2 + kTileRows, kRowBytes);
  }
  static void store_sums(float* sums, bool both) {
    constexpr std::int64_t kRowBytes = kWidth * sizeof(float);
    _tile_stored(0, sums, kRowBytes);
    _tile_stored(1, sums + kTileRows, kRowBytes);
    if (both) {
      _tile_stored(2, sums + kSums / 2, kRowBytes);
      _tile_stored(3, sums + kSums / 2 + kTileRows, kRowBytes);
    }
    tile_fence();
  }
  static void clear_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  static void run(const LinearTask& task, const LinearBlock& block, void* memory) {
    const std::int64_t rows = block.row_last - block.row_first;
    const Scratch scratch(task, rows, block.panels, memory);
    const TileScope scope(rows < kTileRows ? static_cast<int>(rows) : kTileRows);
    const std::int64_t products = Unit::products(task), words = Unit::step_words(task);
    constexpr int kVectors = kWidth / kLanes<float>;
    const FinishRows whole = finish_whole_of<kVectors>(task);
    Unfinished unfinished(task);
    const bool once = scratch.tiles <= 2;  // then weights are read as they lie, from end to end
    const std::int64_t pass = once ? scratch.steps : kPass;
    std::int64_t step = 0;
    do {  // once where k is 0, so that the outputs are set
      const std::int64_t left = scratch.steps - step, steps = left < pass ? left : pass;
      // Several passes over a panel ask for their shares of the next one.
      const std::int64_t lines = ceil_div(words / 16, products * ceil_div(scratch.tiles, 2));
      const std::int64_t share = steps * products * lines * 16;
      for (std::int64_t p = block.panel_first; p < block.panel_last; ++p) {
        const float* panel =
            static_cast<const float*>(task.weights) + p * task.panel_stride + step * words;
        const FinishRows finish = (p + 1) * kWidth <= task.n ? whole : finish_any<kVectors>;
        for (std::int64_t r = 0; r < rows; r += 2 * kTileRows) {
          const std::int64_t tile = r / kTileRows;
          const bool both = tile + 1 < scratch.tiles;
          float* sums = scratch.sums_of(p - block.panel_first, tile);
          const std::int64_t ahead =
              once ? kAhead : task.panel_stride + r / (2 * kTileRows) * share;
          const auto due = static_cast<int>(ceil_div(2 * kTileRows, steps > 0 ? steps : 1));
          Beside beside{panel + ahead, lines, unfinished, due};
          if (step == 0) {
            clear_sums();
          } else {
            load_sums(sums, both);
          }
          const Use use = r > 0 ? Use::again : scratch.tiles > 2 ? Use::first : Use::once;
          Unit::multiply(task, use, both, scratch.rows(tile, step), scratch.steps * Unit::kRowBytes,
                         panel, steps, beside, scratch.weights);
          store_sums(sums, both);
          if (steps < left) continue;
          const std::int64_t count = rows - r < 2 * kTileRows ? rows - r : 2 * kTileRows;
          unfinished.finish_all();  // nothing, but where there are no steps
          unfinished.hold(finish, sums, block.row_first + r, static_cast<int>(count), p * kWidth);
        }
      }
      step += steps;
    } while (step < scratch.steps);
    unfinished.finish_all();
  }
};

}  // namespace FASTSI_ISA
}  // namespace fastsi
