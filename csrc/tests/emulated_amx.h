// The tile instructions of AMX in plain C++, so that kernels of the instruction set amx can be
// tested on CPUs without tiles. amx.h includes this where FASTSI_EMULATE_AMX is defined.
//
// Follows the descriptions of Intel's manual (volume 2): products of bfloat16 are added with one
// rounding each, those of even and of odd inputs apart, subnormal numbers count as zero; shapes
// that the hardware refuses end the process.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace fastsi {
namespace FASTSI_ISA {
namespace emulated {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Tile {
  int rows, bytes;  // 0: not configured
  unsigned char data[kMostRows][kMostBytes];
};
static thread_local Tile tiles[kTiles];

static inline void require(bool condition) {
  if (!condition) std::abort();
}

static inline void load_config(const void* memory) {
  struct {
    std::uint8_t palette, start_row, reserved[14];
    std::uint16_t row_bytes[16];
    std::uint8_t rows[16];
  } config;
  static_assert(sizeof config == 64);
  std::memcpy(&config, memory, sizeof config);
  require(config.palette == 1 && config.start_row == 0);
  for (int i = 0; i < kTiles; ++i) {
    require(config.rows[i] <= kMostRows && config.row_bytes[i] <= kMostBytes);
    tiles[i] = {};
    tiles[i].rows = config.rows[i];
    tiles[i].bytes = config.row_bytes[i];
  }
}
static inline void release() {
  for (Tile& tile : tiles) tile = {};
}

static inline Tile& at(int number) {
  require(tiles[number].rows > 0 && tiles[number].bytes > 0);
  return tiles[number];
}
static inline void zero(int number) {
  Tile& tile = at(number);
  std::memset(tile.data, 0, sizeof tile.data);
}
static inline void load(int number, const void* memory, std::int64_t stride) {
  zero(number);
  Tile& tile = at(number);
  for (int r = 0; r < tile.rows; ++r) {
    const auto* from = static_cast<const char*>(memory) + r * stride;
    std::memcpy(tile.data[r], from, static_cast<std::size_t>(tile.bytes));
  }
}
static inline void store(int number, void* memory, std::int64_t stride) {
  const Tile& tile = at(number);
  for (int r = 0; r < tile.rows; ++r) {
    auto* to = static_cast<char*>(memory) + r * stride;
    std::memcpy(to, tile.data[r], static_cast<std::size_t>(tile.bytes));
  }
}

template <class T>
static inline T element(const Tile& tile, int row, int i) {
  T value;
  std::memcpy(&value, tile.data[row] + i * static_cast<int>(sizeof(T)), sizeof value);
  return value;
}
template <class T>
static inline void set_element(Tile& tile, int row, int i, T value) {
  std::memcpy(tile.data[row] + i * static_cast<int>(sizeof(T)), &value, sizeof value);
}

static inline float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? 0.0f : x; }
static inline float bf16_at(const Tile& tile, int row, int i) {
  const std::uint32_t bits = std::uint32_t{element<std::uint16_t>(tile, row, i)} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return flushed(value);
}

// Calls add(row, column, k) for every product of 4 bytes of a row and 4 of a column.
template <class Add>
static inline void for_each_product(const Tile& sums, const Tile& a, const Tile& b, Add add) {
  require(sums.rows == a.rows && sums.bytes == b.bytes && a.bytes / 4 == b.rows);
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.bytes / 4; ++n) add(m, n, b.rows);
  }
}
static inline void dot_bf16(int to, int left, int right) {
  Tile& sums = at(to);
  const Tile &a = at(left), &b = at(right);
  for_each_product(sums, a, b, [&](int m, int n, int depth) {
    float even = 0, odd = 0;
    for (int k = 0; k < depth; ++k) {
      even = flushed(std::fma(bf16_at(a, m, 2 * k), bf16_at(b, k, 2 * n), even));
      odd = flushed(std::fma(bf16_at(a, m, 2 * k + 1), bf16_at(b, k, 2 * n + 1), odd));
    }
    const float sum = flushed(even + odd);
    set_element(sums, m, n, flushed(flushed(element<float>(sums, m, n)) + sum));
  });
}
static inline void dot_int8(int to, int left, int right) {
  Tile& sums = at(to);
  const Tile &a = at(left), &b = at(right);
  for_each_product(sums, a, b, [&](int m, int n, int depth) {
    auto sum = static_cast<std::int64_t>(element<std::int32_t>(sums, m, n));
    for (int k = 0; k < depth; ++k) {
      for (int i = 0; i < 4; ++i) {
        sum += element<std::int8_t>(a, m, 4 * k + i) * element<std::int8_t>(b, k, 4 * n + i);
      }
    }
    set_element(sums, m, n, static_cast<std::int32_t>(sum));
  });
}

}  // namespace emulated
}  // namespace FASTSI_ISA
}  // namespace fastsi

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig(memory) emulated::load_config(memory)
#define _tile_release() emulated::release()
#define _tile_zero(tile) emulated::zero(tile)
#define _tile_loadd(tile, memory, stride) emulated::load(tile, memory, stride)
#define _tile_stored(tile, memory, stride) emulated::store(tile, memory, stride)
#define _tile_dpbf16ps(to, left, right) emulated::dot_bf16(to, left, right)
#define _tile_dpbssd(to, left, right) emulated::dot_int8(to, left, right)
