// Philox4x32-10, a counter-based random generator (Salmon et al., 2011).
#pragma once

#include <array>
#include <cstdint>

namespace fastsi {

inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// The uniform of [0, 1), with 53 random bits, that belongs to a path's key and a position.
inline double uniform(std::uint64_t key, std::uint64_t position) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto x = philox({low(position), high(position), 0, 0}, {low(key), high(key)});
  constexpr double kTwo26 = 67108864.0, kTwo53 = 9007199254740992.0;
  return ((x[0] >> 5) * kTwo26 + (x[1] >> 6)) / kTwo53;
}

}  // namespace fastsi
