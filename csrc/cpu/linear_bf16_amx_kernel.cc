// Linear layers of rows and weights rounded to bfloat16 on the tile unit (AMX), which multiplies
// just that. See kernels.h. Tiles of the weights lie in the panels as the tile unit takes them.
#include "linear_tiles.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr std::int64_t kPanelRowBytes = 2 * kTileRowBytes;  // 32 columns of pairs

// Adds rows at x, tiles of them `next_rows` bytes apart, times `steps` steps of a panel to the
// sums.
template <int Tiles>
void multiply(const char* x, std::int64_t next_rows, const char* panel, std::int64_t steps,
              Beside beside) {
  for (std::int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, x, kTileRowBytes);
    _tile_loadd(6, panel, kPanelRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + kTileRowBytes, kPanelRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    if (Tiles == 2) {
      _tile_loadd(5, x + next_rows, kTileRowBytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    beside.after_product();
    beside.after_step();
    x += kTileBytes;
    panel += 2 * kTileBytes;
  }
}

struct Bf16 {
  static constexpr std::int64_t kRowBytes = kTileBytes, kInputs = 2;
  static constexpr std::int64_t kWeightBytes = 0, kPass = 72;
  static constexpr int kLeastBytes = 4;

  FASTSI_INLINE void prepare(__m512 low, __m512 high, char* to) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
    std::memcpy(to, &pairs, sizeof pairs);
  }
  static std::int64_t step_words(const LinearTask&) { return 2 * kTileBytes / 4; }
  static std::int64_t products(const LinearTask&) { return 1; }
  static void multiply(const LinearTask&, Use, bool both, const char* x, std::int64_t next_rows,
                       const float* panel, std::int64_t steps, Beside& beside, char*) {
    const auto* weights = reinterpret_cast<const char*>(panel);
    (both ? FASTSI_ISA::multiply<2> : FASTSI_ISA::multiply<1>)(x, next_rows, weights, steps,
                                                               beside);
  }
};
using Tiles = LinearTiles<Bf16>;

}  // namespace

LinearLayout linear_bf16_layout() { return Tiles::layout(); }

std::size_t linear_bf16_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  return Tiles::scratch(task, rows, panels);
}

void linear_bf16_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows,
                         std::int64_t panels, void* scratch) {
  Tiles::prepare(task, row, rows, panels, scratch);
}

void linear_bf16(const LinearTask& task, const LinearBlock& block, void* scratch) {
  Tiles::run(task, block, scratch);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
