// float32 linear layers on the tile unit (AMX), which multiplies bfloat16 alone. See kernels.h.
//
// A float32 has 24 significant bits and a bfloat16 8, so a number is the sum of three: x = x0 + x1
// + x2, exactly. Of the nine products of two such sums the six with i + j <= 2 are added in
// float32; what the other three would add is below 2^-24 of the product, like one rounding of
// float32. Six products on the tile unit still take less time than one on the vector unit, half of
// it at best. Weights that were bfloat16 in their checkpoint have one part that is not 0 and take
// three products; those of float16 and of a 4-bit file mostly two, and five.
//
// The rows are split once per item. The weights are stored in as many bytes as are not 0, in panels
// of 32 columns. Of those with 2 or 3 bytes (linear_short_weights.h) the upper halves are the first
// part, cut off and not rounded, and lie as the tile unit takes them. The other parts are split off
// for the first rows of an item, by the vector unit while the tile unit multiplies what was split
// before, and kept for the item's other rows.
// The tile unit takes subnormal parts as zero; a number that is not finite, or within 2^-9 of the
// largest, gives NaN.
#include "linear_short_weights.h"
#include "linear_tiles.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr int kParts = 3;
constexpr std::int64_t kWidth = 32, kStepDepth = 32;
constexpr std::int64_t kRowsBytes = kParts * kTileBytes;  // of a tile of rows, all parts
constexpr std::int64_t kPartBytes = 2 * kTileBytes;       // of one part of a panel's step
static_assert(kWidth == ShortWeights::kWidth && kStepDepth == ShortWeights::kDepth);
constexpr int kSplits = 32;  // pieces that a panel's step is split in

// Writes the parts of two vectors, `stride` bytes apart; a pair of words is one element of each.
FASTSI_INLINE void split(__m512 a, __m512 b, char* to, std::int64_t stride) {
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(-0x10000);
  for (int part = 0; part < kParts; ++part) {
    __m512i a_bits = _mm512_castps_si512(a), b_bits = _mm512_castps_si512(b);
    if (part < kParts - 1) {  // to the nearest; what is left for the last is a bfloat16
      a_bits = _mm512_and_si512(_mm512_add_epi32(a_bits, half), high);
      b_bits = _mm512_and_si512(_mm512_add_epi32(b_bits, half), high);
      a = _mm512_sub_ps(a, _mm512_castsi512_ps(a_bits));
      b = _mm512_sub_ps(b, _mm512_castsi512_ps(b_bits));
    }
    const __m512i words = _mm512_or_si512(_mm512_srli_epi32(a_bits, 16), b_bits);
    _mm512_store_si512(to + part * stride, words);
  }
}

// What is left of two vectors of weights without their upper halves: `upper` holds those in pairs,
// as a tile does, `thirds` their third bytes in the lower half of every word.
FASTSI_INLINE __m512i split_third_bytes(__m512i upper, __m512i thirds) {
  const __m512i high = _mm512_set1_epi32(-0x10000), byte = _mm512_set1_epi32(0xFF00);
  constexpr int kOrAnd = 0xF8;  // a | (b & c)
  const __m512i a = _mm512_slli_epi32(upper, 16), b = _mm512_and_si512(upper, high);
  const __m512i whole_a = _mm512_ternarylogic_epi32(a, _mm512_slli_epi32(thirds, 8), byte, kOrAnd);
  const __m512i whole_b = _mm512_ternarylogic_epi32(b, thirds, byte, kOrAnd);
  const auto rest = [](__m512i whole, __m512i part) {
    return _mm512_castps_si512(
        _mm512_sub_ps(_mm512_castsi512_ps(whole), _mm512_castsi512_ps(part)));
  };
  return _mm512_or_si512(_mm512_srli_epi32(rest(whole_a, a), 16), rest(whole_b, b));
}

// Splits pieces [Begin, End) of a panel's step, each of one row of a tile and one of two tiles of
// columns, into parts [part][tile]: all three, the second, or none of one, which is fetched instead
// into the first-level cache. Row i of a tile holds the pair of k = i and 16 + i, because that
// takes no shuffle.
template <int Parts, int Begin, int End>
FASTSI_INLINE void split_weights(const char* from, char* to) {
  for (int n = Begin; n < End; ++n) {
    const int i = n / 2, tile = n % 2, at = tile * kTileBytes + i * kTileRowBytes;
    if constexpr (Parts == 1) {
      _mm_prefetch(from + n * kTileRowBytes, _MM_HINT_T0);
    } else if constexpr (Parts == 2) {
      const __m512i upper = _mm512_loadu_si512(from + at);
      const __m512i thirds = _mm512_loadu_si512(from + kPartBytes + i * kTileRowBytes);
      _mm512_store_si512(
          to + at, split_third_bytes(upper, tile == 0 ? thirds : _mm512_srli_epi32(thirds, 16)));
    } else {
      const float* row = reinterpret_cast<const float*>(from) + i * kWidth + tile * kTileRows;
      split(_mm512_loadu_ps(row), _mm512_loadu_ps(row + kStepDepth / 2 * kWidth), to + at,
            kPartBytes);
    }
  }
}

// Tiles 0 to 3: sums, rows of tiles by columns of tiles. 4 and 5: a part of the rows. 6 and 7: a
// part of the weights. The names of tiles are literals, hence macros.
#define FASTSI_LOAD(tile, from, part) _tile_loadd(tile, (from) + (part) * kTileBytes, kTileRowBytes)
#define FASTSI_LOAD_ROWS(part) \
  FASTSI_LOAD(4, x, part);     \
  if (Tiles == 2) FASTSI_LOAD(5, x + next_rows, part)
#define FASTSI_LOAD_WEIGHTS(part) \
  FASTSI_LOAD(6, w[part], 0);     \
  FASTSI_LOAD(7, w[part], 1)
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
  beside.after_product()

// Products i + j <= 2 of three parts of a row and so many of a weight.
constexpr int products_of(int parts) { return parts == 1 ? 3 : parts + 3; }

// Adds one step (32 k) of the rows' parts at x times the weights' parts at w to the sums: the small
// products before the largest. Next: splits the weights at `from` into `to` meanwhile.
template <int Parts, int Tiles, bool Next>
FASTSI_INLINE void multiply_step(const char* x, std::int64_t next_rows,
                                 const char* const (&w)[Parts], const char* from, char* to,
                                 Beside& beside) {
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
  tile_fence();
  beside.after_step();
}

// Adds the rows' parts at x, tiles of rows `next_rows` bytes apart, times `steps` steps of a panel
// to the sums. `split` holds what is split off the weights: of two steps, if the panel is used
// once.
template <int Parts, int Tiles>
void multiply(Use use, const char* x, std::int64_t next_rows, const char* panel, std::int64_t steps,
              Beside beside, char* split) {
  constexpr std::int64_t kStepBytes = kWidth * kStepDepth * (Parts + 1);
  constexpr std::int64_t kSlot = (Parts == 3 ? 3 : Parts - 1) * kPartBytes;
  if (use != Use::again && steps > 0) split_weights<Parts, 0, kSplits>(panel, split);
  tile_fence();
  for (std::int64_t s = 0; s < steps; ++s, x += kRowsBytes, panel += kStepBytes) {
    const char* w[Parts];
    const char* now = split + (use == Use::once ? s % 2 : s) * kSlot;
    if constexpr (Parts < 3) w[0] = panel;
    for (int part = Parts < 3 ? 1 : 0; part < Parts; ++part, now += kPartBytes) w[part] = now;
    if (use == Use::again || s + 1 == steps) {
      multiply_step<Parts, Tiles, false>(x, next_rows, w, nullptr, nullptr, beside);
    } else {
      char* to = split + (use == Use::once ? (s + 1) % 2 : s + 1) * kSlot;
      multiply_step<Parts, Tiles, true>(x, next_rows, w, panel + kStepBytes, to, beside);
    }
  }
}

using Multiply = void (*)(Use, const char*, std::int64_t, const char*, std::int64_t, Beside, char*);
constexpr Multiply kMultiply[kParts][2] = {{multiply<1, 1>, multiply<1, 2>},
                                           {multiply<2, 1>, multiply<2, 2>},
                                           {multiply<3, 1>, multiply<3, 2>}};

struct Fp32 {
  static constexpr std::int64_t kRowBytes = kRowsBytes, kInputs = 1, kPass = 24;
  static constexpr std::int64_t kWeightBytes = kPass * kParts * kPartBytes;
  static constexpr int kLeastBytes = 2;

  FASTSI_INLINE void prepare(__m512 low, __m512 high, char* to) {
    split(low, high, to, kTileBytes);
  }
  static std::int64_t step_words(const LinearTask& task) {
    return kStepDepth * kWidth * task.weight_bytes / 4;
  }
  static std::int64_t products(const LinearTask& task) {
    return products_of(task.weight_bytes - 1);
  }
  static void multiply(const LinearTask& task, Use use, bool both, const char* x,
                       std::int64_t next_rows, const float* panel, std::int64_t steps,
                       Beside& beside, char* scratch) {
    kMultiply[task.weight_bytes - 2][both](use, x, next_rows, reinterpret_cast<const char*>(panel),
                                           steps, beside, scratch);
  }
};
using Tiles = LinearTiles<Fp32>;

}  // namespace

LinearLayout linear_fp32_layout() { return Tiles::layout(); }

std::size_t linear_fp32_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  return Tiles::scratch(task, rows, panels);
}

void linear_fp32_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows,
                         std::int64_t panels, void* scratch) {
  Tiles::prepare(task, row, rows, panels, scratch);
}

void linear_fp32(const LinearTask& task, const LinearBlock& block, void* scratch) {
  Tiles::run(task, block, scratch);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
