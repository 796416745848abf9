// float32 weights whose last bytes are 0 and are not stored: weights that were bfloat16 in their
// checkpoint have 2 bytes that are not, those that were float16 or 4 bits mostly 3. In panels of 32
// columns, for the tile unit (AMX), step by step of 32 k:
//   2 tiles, of 16 columns each  the upper halves; row i holds the pair of k = i and 16 + i of
//   every
//                                column, as products of tiles take them
//   16 rows of 64 bytes          where 3 are stored, the third bytes; row i holds for column c
//   those
//                                of k = i and 16 + i, then the two of column 16 + c
#pragma once

#include <cstdint>

namespace fastsi {

struct ShortWeights {
  static constexpr std::int64_t kWidth = 32, kDepth = 32, kTile = 1024, kRow = 64;

  int bytes;  // stored of each weight, 2 or 3

  std::int64_t step_bytes() const { return kWidth * kDepth * bytes; }

  void put(void* panel, std::int64_t column, std::int64_t k, std::uint32_t weight) const {
    char* at = static_cast<char*>(panel);
    *reinterpret_cast<std::uint16_t*>(at + upper(column, k)) =
        static_cast<std::uint16_t>(weight >> 16);
    if (bytes == 3) {
      at[third(column, k)] = static_cast<char>(static_cast<unsigned char>(weight >> 8));
    }
  }

  std::uint32_t get(const void* panel, std::int64_t column, std::int64_t k) const {
    const char* at = static_cast<const char*>(panel);
    std::uint32_t weight =
        static_cast<std::uint32_t>(*reinterpret_cast<const std::uint16_t*>(at + upper(column, k)))
        << 16;
    if (bytes == 3) {
      weight |= static_cast<std::uint32_t>(static_cast<unsigned char>(at[third(column, k)])) << 8;
    }
    return weight;
  }

 private:
  static constexpr std::int64_t kHalf = kDepth / 2, kColumns = kWidth / 2;

  // In bytes from the panel's beginning.
  std::int64_t row(std::int64_t k) const { return k / kDepth * step_bytes() + k % kHalf * kRow; }
  std::int64_t upper(std::int64_t column, std::int64_t k) const {
    return row(k) + column / kColumns * kTile + column % kColumns * 4 + k % kDepth / kHalf * 2;
  }
  std::int64_t third(std::int64_t column, std::int64_t k) const {
    return row(k) + 2 * kTile + column % kColumns * 4 + column / kColumns * 2 + k % kDepth / kHalf;
  }
};

}  // namespace fastsi
