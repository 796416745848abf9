// Activation functions of MLPs on vectors, with relative errors of a few units in the last place.
// Included by kernels alone, after the reasons given in simd.h.
#pragma once

#include "fastsi/ops.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

// x / (1 + exp(-x)), with the exponential of a value that is never positive.
template <class T>
FASTSI_INLINE Vec<T> silu(Vec<T> x) {
  const Vec<T> zero{};
  const Vec<T> e = exp_neg(x < zero ? x : -x);
  return x * ((x < zero ? e : zero + T{1}) / (e + T{1}));
}

// Polynomials of N. Juffa, within one unit in the last place of erf on either side of 475/512.
FASTSI_INLINE vf erf(vf x) {
  vi32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  const vi32 sign = bits & static_cast<std::int32_t>(0x80000000u);
  bits &= 0x7FFFFFFF;
  vf a;
  std::memcpy(&a, &bits, sizeof a);
  const vf s = x * x;
  vf p = splat<float>(-5.96761703e-4f);
  p = fma(p, s, splat<float>(4.99119423e-3f));
  p = fma(p, s, splat<float>(-2.67681349e-2f));
  p = fma(p, s, splat<float>(1.12819925e-1f));
  p = fma(p, s, splat<float>(-3.76125336e-1f));
  p = fma(p, s, splat<float>(1.28379166e-1f));
  const vf small = fma(p, a, a);
  // Beyond 4 the result is 1, and the polynomial would leave its range.
  const vf t = a > splat<float>(4.0f) ? splat<float>(4.0f) : a;
  vf q = fma(splat<float>(-1.72853470e-5f), t, splat<float>(3.83197126e-4f));
  const vf u = fma(splat<float>(-3.88396438e-3f), t, splat<float>(2.42546219e-2f));
  q = fma(q, t * t, u);
  q = fma(q, t, splat<float>(-1.06777877e-1f));
  q = fma(q, t, splat<float>(-6.34846687e-1f));
  q = fma(q, t, splat<float>(-1.28717512e-1f));
  const vf large = 1.0f - exp_neg(fma(q, t, -t));
  vf y = a > splat<float>(0.927734375f) ? large : small;  // a NaN takes the small branch and stays
  vi32 result;
  std::memcpy(&result, &y, sizeof result);
  result |= sign;
  std::memcpy(&y, &result, sizeof y);
  return y;
}

// x * Phi(x), Phi the cumulative normal distribution. In float32 with vectors of erf, as precise as
// plain arithmetic: the tail, where erf + 1 cancels, is small beside x.
FASTSI_INLINE vf gelu(vf x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }
FASTSI_INLINE vd gelu(vd x) {
  vd y{};
  for (int i = 0; i < kLanes<double>; ++i) {
    // erfc keeps its relative precision where erf(x) + 1 would cancel.
    y[i] = 0.5 * x[i] * std::erfc(x[i] * -0.70710678118654752440);
  }
  return y;
}

// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2.
template <class T>
FASTSI_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  const Vec<T> cube = x * x * x;
  const Vec<T> inner = (x + cube * static_cast<T>(0.044715)) * static_cast<T>(0.79788456080286536);
  return x * T{0.5} * (tanh(inner) + T{1});
}

template <class T>
FASTSI_INLINE Vec<T> activate(Activation activation, Vec<T> x) {
  switch (activation) {
    case Activation::silu:
      return silu<T>(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::gelu_tanh:
      return gelu_tanh<T>(x);
    case Activation::none:
      break;
  }
  return x;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
