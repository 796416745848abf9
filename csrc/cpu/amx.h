// Matrix tiles of AMX. Only files compiled for the instruction set amx may use this (FASTSI_AMX).
//
// A tile is 16 rows of 64 bytes. In memory a tile is mostly 1024 contiguous bytes, row after row.
#pragma once

#include "simd.h"
#if defined(FASTSI_EMULATE_AMX)
#include "emulated_amx.h"
#endif

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define FASTSI_AMX 1

namespace fastsi {
namespace FASTSI_ISA {

inline constexpr int kTileRows = 16, kTileRowBytes = 64, kTileBytes = kTileRows * kTileRowBytes;

// All eight tiles for the life of this object, on this thread. A kernel that uses
// tiles holds one for its whole work item, so two kernels never see each other's configuration.
class TileScope {
 public:
  // At full size; or tiles 0 to 5 with `rows` rows, for few rows of sums and of their left factors.
  explicit TileScope(int rows = kTileRows) {
    struct alignas(64) Config {
      std::uint8_t palette, start_row, reserved[14];
      std::uint16_t row_bytes[16];
      std::uint8_t rows[16];
    } config{};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kTileRowBytes;
      config.rows[i] = static_cast<std::uint8_t>(i < 6 ? rows : kTileRows);
    }
    // The intrinsic says that it reads eight bytes, so stores of the others could be left out.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }  // idle tiles would be saved at every context switch
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// Keeps the compiler from moving stores past the tile loads that read them: the load intrinsics do
// not say that they read memory.
FASTSI_INLINE void tile_fence() { asm volatile("" ::: "memory"); }

}  // namespace FASTSI_ISA
}  // namespace fastsi

#endif
