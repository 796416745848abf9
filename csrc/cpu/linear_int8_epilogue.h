// What follows the integer sums of a linear layer. Only + - * / and comparisons, which IEEE rounds
// alike everywhere, and no fused multiply-adds, which the portable build lacks: so every
// instruction set gives the same bits. Included by int8 kernels alone, once per instruction set.
#pragma once

#include "linear_int8.h"
#include "linear_int8_dot.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

// exp(x) for x <= 0, with a relative error below 3e-7; 0 below -87.3, NaN for NaN, 1 for 0.
FASTSI_INLINE vf exp_unfused(vf x) {
  const vf least = splat<float>(-87.33654f);
  const vf clamped = max(least, x);            // NaN stays: max returns its second operand
  const vf magic = splat<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = clamped * splat<float>(1.44269504f) + magic;
  const vf n = shifted - magic;
  // Both products with n are exact: the first constant has 9 bits, n at most 7; the second is
  // small.
  vf r = clamped - n * splat<float>(0.693359375f);
  r = r + n * splat<float>(2.12194440e-4f);
  vf p = splat<float>(1.9875691500e-4f);
  p = p * r + splat<float>(1.3981999507e-3f);
  p = p * r + splat<float>(8.3334519073e-3f);
  p = p * r + splat<float>(4.1665795894e-2f);
  p = p * r + splat<float>(1.6666665459e-1f);
  p = p * r + splat<float>(5.0000001201e-1f);
  p = (p * (r * r) + r) + splat<float>(1.0f);
  vi32 power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power << 23) + 0x3F800000;  // the integer's low bits become the exponent of 2^n
  vf scale;
  std::memcpy(&scale, &power, sizeof scale);
  const vf y = p * scale;
  return x < least ? vf{} : y;
}

FASTSI_INLINE vf magnitude(vf x) {
  vi32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= 0x7FFFFFFF;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// x / (1 + exp(-x)), from exp(-|x|), which cannot overflow.
FASTSI_INLINE vf silu(vf x) {
  const vf e = exp_unfused(-magnitude(x));
  const vf one = splat<float>(1.0f);
  return x * (x < vf{} ? e : one) / (one + e);
}

// x * Phi(x) with erfc by a Chebyshev fit of relative error 1.2e-7 (Numerical Recipes, erfcc), so
// that the negative tail keeps its digits.
FASTSI_INLINE vf gelu(vf x) {
  const vf one = splat<float>(1.0f), half = splat<float>(0.5f);
  const vf z = magnitude(x) * splat<float>(0.70710678f);
  const vf t = one / (one + half * z);
  vf p = splat<float>(0.17087277f);
  p = p * t + splat<float>(-0.82215223f);
  p = p * t + splat<float>(1.48851587f);
  p = p * t + splat<float>(-1.13520398f);
  p = p * t + splat<float>(0.27886807f);
  p = p * t + splat<float>(-0.18628806f);
  p = p * t + splat<float>(0.09678418f);
  p = p * t + splat<float>(0.37409196f);
  p = p * t + splat<float>(1.00002368f);
  p = p * t + splat<float>(-1.26551223f);
  const vf tail = half * t * exp_unfused(p - z * z);  // Phi(-|x|)
  return x * (x < vf{} ? tail : one - tail);
}

// 0.5 x (1 + tanh(u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which equals x * sigmoid(2 u).
FASTSI_INLINE vf gelu_tanh(vf x) {
  const vf one = splat<float>(1.0f);
  const vf u2 = splat<float>(1.5957691f) * x * (one + splat<float>(0.044715f) * x * x);
  const vf e = exp_unfused(-magnitude(u2));
  return x * (u2 < vf{} ? e : one) / (one + e);
}

// --- from sums to outputs ----------------------------------------------------------------------

template <Activation A>
FASTSI_INLINE vf activate(vf x) {
  if constexpr (A == Activation::silu) return silu(x);
  if constexpr (A == Activation::gelu) return gelu(x);
  if constexpr (A == Activation::gelu_tanh) return gelu_tanh(x);
  return x;
}

// Sums of a row times its scale and those of the columns; with kStepScales they hold both already.
[[maybe_unused]] FASTSI_INLINE vf scaled(const float* sums, vf, const float*) {
  return load<float>(sums);
}
[[maybe_unused]] FASTSI_INLINE vf scaled(const std::int32_t* sums, vf row_scale,
                                         const float* scales) {
  vi32 n;
  std::memcpy(&n, sums, sizeof n);
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(n)) * row_scale * load<float>(scales);
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(n)) * row_scale * load<float>(scales);
#else
  return __builtin_convertvector(n, vf) * row_scale * load<float>(scales);
#endif
}

// Loads and stores of W columns, the last of which may not exist.
template <bool Full>
FASTSI_INLINE vf load_columns(const float* p, std::int64_t left) {
  return Full ? load<float>(p) : load_lanes<float>(p, left);
}

// A result written past the caches saves reading the line first. See also drain_stores.
FASTSI_INLINE void store_output(float* p, vf y, bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(p, y);
#elif defined(__AVX2__)
  if (stream) return _mm256_stream_ps(p, y);
#endif
  (void)stream;
  store<float>(p, y);
}

// Streamed results must be visible before other threads hear that the work is done.
FASTSI_INLINE void drain_stores() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Rows [row, end) of P panels: sums[(r - row) * stride + p * 16 + column] to out. Full: all columns
// of the panels exist.
template <int P, Activation A, bool Pair, bool Full>
static void finish(const Int8Task& task, std::int64_t row, std::int64_t end, std::int64_t panel,
                   const Sum* sums, std::int64_t stride) {
  constexpr int W = kLanes<float>;
  const float* scales = task.weight_scale + panel * kPanel;
  const std::int64_t first = (Pair ? panel / 2 : panel) * kPanel;
  const std::int64_t width = Full ? (Pair ? 1 : P) * kPanel : task.columns - first;
  for (; row < end; ++row, sums += stride) {
    const vf row_scale = kStepScales ? vf{} : splat<float>(task.row_scale[row]);
    float* out = task.out + row * task.out_stride + first;
    for (int i = 0; i < (Pair ? 1 : P) * kPanel; i += W) {
      const std::int64_t left = width - i;
      if (!Full && left <= 0) break;
      vf y = scaled(sums + i, row_scale, scales + i);
      if (task.bias != nullptr) y = y + load_columns<Full>(task.bias + first + i, left);
      y = activate<A>(y);
      if constexpr (Pair) {
        vf up = scaled(sums + kPanel + i, row_scale, scales + kPanel + i);
        if (task.bias != nullptr) {
          up = up + load_columns<Full>(task.bias + task.columns + first + i, left);
        }
        y = y * up;
      }
      if (task.residual != nullptr) {
        y = y + load_columns<Full>(task.residual + row * task.residual_stride + first + i, left);
      }
      if constexpr (Full) {
        store_output(out + i, y, task.stream);
      } else {
        store_as<float>(out + i, y, lanes_of<float>(left));
      }
    }
  }
}

using Finish = void (*)(const Int8Task& task, std::int64_t row, std::int64_t end,
                        std::int64_t panel, const Sum* sums, std::int64_t stride);

template <int P, bool Full>
static Finish finish_of(const Int8Task& task) {
  using A = Activation;
  constexpr bool kPair = P == 2;  // one panel is never a pair
  switch (task.activation) {
    case A::silu:
      return kPair && task.pair ? finish<P, A::silu, kPair, Full> : finish<P, A::silu, false, Full>;
    case A::gelu:
      return kPair && task.pair ? finish<P, A::gelu, kPair, Full> : finish<P, A::gelu, false, Full>;
    case A::gelu_tanh:
      return kPair && task.pair ? finish<P, A::gelu_tanh, kPair, Full>
                                : finish<P, A::gelu_tanh, false, Full>;
    default:
      return kPair && task.pair ? finish<P, A::none, kPair, Full> : finish<P, A::none, false, Full>;
  }
}

template <int P>
static Finish finish_of(const Int8Task& task, std::int64_t panel) {
  const std::int64_t columns = (task.pair ? panel / 2 + 1 : panel + P) * kPanel;
  return columns <= task.columns ? finish_of<P, true>(task) : finish_of<P, false>(task);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
