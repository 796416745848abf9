// How a head of keys or values becomes integers, and the rotation that both sides of q . k share.
//
// Keys have a few dimensions far larger than the rest, which one scale per token would follow. A
// Hadamard rotation spreads them over all dimensions and leaves q . k as it was.
#pragma once

#include "int8_rounding.h"

namespace fastsi {
namespace FASTSI_ISA {

constexpr float kInt8Levels = 127.0f;

// Side of the rotation's square blocks: the largest power of two that divides head_dim, at most 64.
FASTSI_INLINE std::int64_t rotation_of(std::int64_t dim) {
  const std::int64_t power = dim & -dim;
  return power < 64 ? power : 64;
}

// Rotates a head in place: blocks times the Hadamard matrix of their side and 1 / sqrt(side);
// strides side / 2, side / 4, ..., 1.
FASTSI_INLINE void rotate_head(float* x, std::int64_t dim) {
  constexpr int W = kLanes<float>;
  const std::int64_t side = rotation_of(dim);
  const float factor = 1.0f / std::sqrt(static_cast<float>(side));
  for (float* end = x + dim; x < end; x += side) {
    std::int64_t stride = side / 2;
    for (; stride >= W; stride /= 2) {
      for (std::int64_t i = 0; i < side; i += W) {
        if (i & stride) continue;
        const vf a = load<float>(x + i), b = load<float>(x + i + stride);
        store<float>(x + i, a + b);
        store<float>(x + i + stride, a - b);
      }
    }
    if (side >= W) {
      for (std::int64_t i = 0; i < side; i += W) {
        vf v = load<float>(x + i);
        if constexpr (W > 8) v = butterfly<8>(v);
        if constexpr (W > 4) v = butterfly<4>(v);
        store<float>(x + i, butterfly<1>(butterfly<2>(v)) * splat<float>(factor));
      }
      continue;
    }
    for (; stride > 0; stride /= 2) {
      for (std::int64_t i = 0; i < side; ++i) {
        if (i & stride) continue;
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    for (std::int64_t i = 0; i < side; ++i) x[i] *= factor;
  }
}

// A head as integers of at most `levels`, plus an offset; returns what they are to be multiplied
// with.
template <class T>
FASTSI_INLINE float quantise_head(const float* x, std::int64_t dim, float levels, int offset,
                                  T* to) {
  constexpr int W = kLanes<float>;
  const Grain grain = grain_of(largest_magnitude(x, dim), levels, 1.0f);
  const vf inverse = splat<float>(grain.inverse);
  for (std::int64_t i = 0; i < dim; i += W) {
    // Without a usable grain the values may be NaN, which have no integer.
    const vf v = grain.inverse > 0 ? load_lanes<float>(x + i, dim - i) * inverse : vf{};
    const vi32 n = nearest(v) + offset;
    if (dim - i >= W) {
      store_narrow(n, to + i);
    } else {
      for (std::int64_t j = 0; j < dim - i; ++j) to[i + j] = static_cast<T>(n[j]);
    }
  }
  return grain.scale;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
