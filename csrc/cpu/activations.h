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

// x * Phi(x), Phi the cumulative normal distribution.
template <class T>
FASTSI_INLINE Vec<T> gelu(Vec<T> x) {
  Vec<T> y{};
  for (int i = 0; i < kLanes<T>; ++i) {
    // erfc keeps its relative precision where erf(x) + 1 would cancel.
    y[i] = T{0.5} * x[i] * std::erfc(x[i] * static_cast<T>(-0.70710678118654752440));
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
      return gelu<T>(x);
    case Activation::gelu_tanh:
      return gelu_tanh<T>(x);
    case Activation::none:
      break;
  }
  return x;
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
