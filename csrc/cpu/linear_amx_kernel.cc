// float32 linear layers on the tile unit (AMX), which multiplies bfloat16 alone. See kernels.h.
//
// A float32 has 24 significant bits and a bfloat16 8, so a number is the sum of three: x = x0 + x1
// + x2, exactly. Of the nine products of two such sums the six with i + j <= 2 are added in
// float32; what the other three would add is below 2^-24 of the product, like one rounding of
// float32. Six products on the tile unit still take less time than one on the vector unit, half of
// it at best. Weights that were bfloat16 in their checkpoint have one part that is not 0 and take
// three products; those of a 4-bit file mostly two, and five.
//
// The rows are split once per item. The weights stay float32 in panels of 32 columns, as the
// AVX-512 kernel reads them, and are split when they are used, by the vector unit while the tile
// unit multiplies what was split before: that costs little time, and memory is read at 4 bytes per
// weight, not 6. The tile unit takes subnormal parts as zero; a number that is not finite, or
// within 2^-9 of the largest, gives NaN.
#include "amx.h"
#include "linear_epilogue.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr std::int64_t kWidth = 32;      // columns of a panel: two tiles of sums
constexpr std::int64_t kStepDepth = 32;  // k of a tile: 16 pairs
constexpr int kParts = 3;
constexpr std::int64_t kPartsBytes = kParts * kTileBytes;  // of a tile of rows or of columns
constexpr int kSplits = 32;                                // calls of split for a step of a panel
// Steps of k per pass over the rows of an item: their parts stay in the second-level cache.
constexpr std::int64_t kBlockSteps = 24;
constexpr std::int64_t kStepLines = kStepDepth * kWidth * sizeof(float) / 64;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Writes the first Parts parts of two vectors, whose other parts are 0; a pair of words is one
// element of each.
template <int Parts>
FASTSI_INLINE void split(__m512 a, __m512 b, char* to) {
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(-0x10000);
  for (int part = 0; part < Parts; ++part) {
    __m512i a_bits = _mm512_castps_si512(a), b_bits = _mm512_castps_si512(b);
    if (part < Parts - 1) {  // to the nearest; what is left for the last is a bfloat16
      a_bits = _mm512_and_si512(_mm512_add_epi32(a_bits, half), high);
      b_bits = _mm512_and_si512(_mm512_add_epi32(b_bits, half), high);
      a = _mm512_sub_ps(a, _mm512_castsi512_ps(a_bits));
      b = _mm512_sub_ps(b, _mm512_castsi512_ps(b_bits));
    }
    const __m512i words = _mm512_or_si512(_mm512_srli_epi32(a_bits, 16), b_bits);
    _mm512_store_si512(to + part * kTileBytes, words);
  }
}

// Splits [Begin, End) of the kSplits that make the parts of a panel's step, [2 tiles][part]. Row i
// of a tile holds the pair of k = i and 16 + i, because that takes no shuffle.
template <int Parts, int Begin, int End>
FASTSI_INLINE void split_weights(const float* from, char* to) {
  for (int n = Begin; n < End; ++n) {
    const int i = n / 2, column = n % 2;
    const float* at = from + i * kWidth + column * kTileRows;
    split<Parts>(_mm512_loadu_ps(at), _mm512_loadu_ps(at + kStepDepth / 2 * kWidth),
                 to + column * kPartsBytes + i * kTileRowBytes);
  }
}

// The intrinsics of tiles do not tell the compiler which memory they read.
FASTSI_INLINE void order_memory() { __asm__ volatile("" ::: "memory"); }

// Weights to ask for while others are multiplied: so many cache lines per product. The
// hardware alone does not look beyond a page of 4 KiB, which is one step.
struct Fetch {
  const float* next;
  std::int64_t lines;
};

// Tiles 0 to 3: sums, rows of tiles by columns of tiles. 4 and 5: a part of the rows. 6 and 7: a
// part of the weights. The names of tiles are literals, hence macros.
#define FASTSI_LOAD(tile, from, part) _tile_loadd(tile, (from) + (part) * kTileBytes, kTileRowBytes)
#define FASTSI_LOAD_ROWS(part) \
  FASTSI_LOAD(4, x, part);     \
  if (Tiles == 2) FASTSI_LOAD(5, x + next_rows, part)
#define FASTSI_LOAD_WEIGHTS(part) \
  FASTSI_LOAD(6, w, part);        \
  FASTSI_LOAD(7, w + kPartsBytes, part)
// One product of parts; then its share of the work that runs beside it.
#define FASTSI_MULTIPLY(number)                                                                  \
  _tile_dpbf16ps(0, 4, 6);                                                                       \
  _tile_dpbf16ps(1, 4, 7);                                                                       \
  if (Tiles == 2) {                                                                              \
    _tile_dpbf16ps(2, 5, 6);                                                                     \
    _tile_dpbf16ps(3, 5, 7);                                                                     \
  }                                                                                              \
  if (Next)                                                                                      \
    split_weights<Parts, kSplits*(number) / kProducts, kSplits*((number) + 1) / kProducts>(from, \
                                                                                           to);  \
  for (std::int64_t i = 0; i < fetch.lines; ++i, fetch.next += 16) {                             \
    _mm_prefetch(fetch.next, _MM_HINT_T1);                                                       \
  }

// Products i + j <= 2 of three parts of a row and so many of a weight.
constexpr int products_of(int parts) { return parts == 1 ? 3 : parts + 3; }

// Adds one step (32 k) of the rows' parts at x times the weights' parts at w to the sums: the small
// products before the largest. Products with parts of weights that are all 0 are left out, which
// changes no bit. Next: splits the weights at `from` into `to` meanwhile.
template <int Parts, int Tiles, bool Next>
FASTSI_INLINE void multiply_step(const char* x, std::int64_t next_rows, const char* w,
                                 const float* from, char* to, Fetch& fetch) {
  constexpr int kProducts = products_of(Parts);
  if constexpr (Parts > 1) {
    FASTSI_LOAD_ROWS(0);
    if constexpr (Parts > 2) {
      FASTSI_LOAD_WEIGHTS(2);
      FASTSI_MULTIPLY(0);
    }
    FASTSI_LOAD_WEIGHTS(1);
    FASTSI_MULTIPLY(kProducts - 5);
  }
  FASTSI_LOAD_ROWS(1);
  if constexpr (Parts > 1) {
    FASTSI_MULTIPLY(kProducts - 4);
  }
  FASTSI_LOAD_WEIGHTS(0);
  FASTSI_MULTIPLY(kProducts - 3);
  FASTSI_LOAD_ROWS(2);
  FASTSI_MULTIPLY(kProducts - 2);
  FASTSI_LOAD_ROWS(0);
  FASTSI_MULTIPLY(kProducts - 1);
  order_memory();
}

// Adds the rows' parts at x, tiles of rows `next_rows` bytes apart, times `steps` steps of a panel
// to sums [16 * Tiles][32], which start at 0 if `fresh`. `parts` holds the weights of two steps.
template <int Parts, int Tiles>
void multiply(const char* x, std::int64_t next_rows, const float* panel, std::int64_t steps,
              bool fresh, Fetch fetch, char* parts, float* sums) {
  constexpr std::int64_t kSlot = 2 * kPartsBytes, kRowBytes = kWidth * sizeof(float);
  float* second = sums + kTileRows * kWidth;
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kRowBytes);
    _tile_loadd(1, sums + kTileRows, kRowBytes);
    if (Tiles == 2) {
      _tile_loadd(2, second, kRowBytes);
      _tile_loadd(3, second + kTileRows, kRowBytes);
    }
  }
  if (steps > 0) split_weights<Parts, 0, kSplits>(panel, parts);
  order_memory();
  for (std::int64_t s = 0; s < steps; ++s, x += kPartsBytes) {
    const char* w = parts + s % 2 * kSlot;
    char* to = parts + (s + 1) % 2 * kSlot;
    panel += kStepDepth * kWidth;
    if (s + 1 < steps) {
      multiply_step<Parts, Tiles, true>(x, next_rows, w, panel, to, fetch);
    } else {
      multiply_step<Parts, Tiles, false>(x, next_rows, w, nullptr, nullptr, fetch);
    }
  }
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + kTileRows, kRowBytes);
  if (Tiles == 2) {
    _tile_stored(2, second, kRowBytes);
    _tile_stored(3, second + kTileRows, kRowBytes);
  }
  order_memory();
}

using Multiply = void (*)(const char*, std::int64_t, const float*, std::int64_t, bool, Fetch, char*,
                          float*);
constexpr Multiply kMultiply[kParts][2] = {{multiply<1, 1>, multiply<1, 2>},
                                           {multiply<2, 1>, multiply<2, 2>},
                                           {multiply<3, 1>, multiply<3, 2>}};

constexpr std::int64_t kWeightBytes = 2 * 2 * kPartsBytes;
constexpr std::int64_t kSums = 2 * kTileRows * kWidth;  // of two tiles of rows

// Where an item keeps what: weights of two steps, sums [panel][two tiles of rows] (one block of
// them where all of k is one pass), and the parts of the rows [tile of rows][step].
struct Scratch {
  std::int64_t steps, tiles, sums;
  char *weights, *parts;
  float* first_sums;

  Scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels, void* memory)
      : steps(ceil_div(task.k, kStepDepth)),
        tiles(ceil_div(rows, kTileRows)),
        sums(steps <= kBlockSteps ? 1 : panels * ceil_div(tiles, 2)),
        weights(static_cast<char*>(memory)),
        parts(weights + kWeightBytes + sums * kSums * static_cast<std::int64_t>(sizeof(float))),
        first_sums(reinterpret_cast<float*>(weights + kWeightBytes)) {}

  char* rows(std::int64_t tile, std::int64_t step) const {
    return parts + (tile * steps + step) * kPartsBytes;
  }
  float* sums_of(std::int64_t panel, std::int64_t tile) const {
    return first_sums + (sums == 1 ? 0 : panel * ceil_div(tiles, 2) + tile / 2) * kSums;
  }
};

}  // namespace

LinearLayout linear_fp32_layout() {
  return {kWidth,        kTileRows,  1, kStepDepth, 2 * kTileRows, kParts * 2,
          kBlockSteps * kStepDepth};
}

std::size_t linear_fp32_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  const Scratch found(task, rows, panels, nullptr);
  return static_cast<std::size_t>(found.rows(found.tiles, 0) - found.weights);
}

void linear_fp32_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows,
                         std::int64_t panels, void* memory) {
  const Scratch scratch(task, rows, panels, memory);
  for (std::int64_t r = 0; r < scratch.tiles * kTileRows; ++r) {
    const bool used = r < rows;  // the rows that fill the last tile are zeros
    const float* x = used ? row_of(task, row + r) : task.x;
    char* to = scratch.rows(r / kTileRows, 0) + r % kTileRows * kTileRowBytes;
    for (std::int64_t k = 0; k < task.k; k += kStepDepth, to += kPartsBytes) {
      const std::int64_t left = used ? task.k - k : 0;
      const auto mask = left >= kStepDepth ? ~0u : (1u << left) - 1;
      split<kParts>(
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + k),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + k + kStepDepth / 2), to);
    }
  }
}

void linear_fp32(const LinearTask& task, const LinearBlock& block, void* memory) {
  const std::int64_t rows = block.row_last - block.row_first;
  const Scratch scratch(task, rows, block.panels, memory);
  const TileScope scope(rows < kTileRows ? static_cast<int>(rows) : kTileRows);
  const std::int64_t products = products_of(task.weight_parts);
  std::int64_t step = 0;
  do {  // once where k is 0, so that the outputs are set
    const std::int64_t left = scratch.steps - step, steps = left < kBlockSteps ? left : kBlockSteps;
    // Every pass over a panel asks for its share of the next one.
    const std::int64_t lines = ceil_div(kStepLines, products * ceil_div(scratch.tiles, 2));
    const std::int64_t share = steps * products * lines * 16;
    for (std::int64_t p = block.panel_first; p < block.panel_last; ++p) {
      const float* panel = static_cast<const float*>(task.weights) + p * task.panel_stride + step * kStepDepth * kWidth;
      for (std::int64_t r = 0; r < rows; r += 2 * kTileRows) {
        const std::int64_t tile = r / kTileRows;
        float* sums = scratch.sums_of(p - block.panel_first, tile);
        const Fetch fetch{panel + task.panel_stride + r / (2 * kTileRows) * share, lines};
        kMultiply[task.weight_parts - 1][tile + 1 < scratch.tiles](
            scratch.rows(tile, step), scratch.steps * kPartsBytes, panel, steps, step == 0, fetch,
            scratch.weights, sums);
        if (steps < left) continue;
        for (std::int64_t i = 0; i < 2 * kTileRows && r + i < rows; ++i)
          finish_row(task, sums + i * kWidth, block.row_first + r + i, p * kWidth, kWidth);
      }
    }
    step += steps;
  } while (step < scratch.steps);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
