// What the fuzz drivers share: random numbers, exact buffers, failure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fastsi/isa.h"
#include "fastsi/ops.h"

namespace fuzz {

using fastsi::DType;
using fastsi::TensorView;

inline std::mt19937_64 generator;

inline std::int64_t pick(std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(generator);
}

inline double normal() { return std::normal_distribution<double>()(generator); }

[[noreturn]] inline void die(const std::string& what) {
  std::fprintf(stderr, "fuzz: %s (isa %s)\n", what.c_str(), fastsi::name_of(fastsi::isa()));
  std::exit(1);
}

inline void require(bool condition, const char* what) {
  if (!condition) die(what);
}

// An owned contiguous tensor in a heap block of exactly its size.
struct Tensor {
  TensorView view;
  std::unique_ptr<char[]> data;

  Tensor(DType dtype, std::vector<std::int64_t> shape) {
    view.dtype = dtype;
    view.dims = static_cast<int>(shape.size());
    std::int64_t stride = 1;
    for (int i = view.dims - 1; i >= 0; --i) {
      view.shape[i] = shape[i];
      view.stride[i] = stride;
      stride *= shape[i];
    }
    const auto bytes = static_cast<std::size_t>(view.numel()) * fastsi::size_of(dtype);
    data.reset(new char[bytes]());
    view.data = data.get();
  }

  template <class T>
  T* as() {
    return static_cast<T*>(view.data);
  }

  double get(std::int64_t i) const {
    switch (view.dtype) {
      case DType::f32:
        return static_cast<const float*>(view.data)[i];
      case DType::f64:
        return static_cast<const double*>(view.data)[i];
      default: {  // bfloat16
        const auto bits = std::uint32_t{static_cast<const std::uint16_t*>(view.data)[i]} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
    }
  }

  void fill_normal(double spread = 1.0) {
    for (std::int64_t i = 0; i < view.numel(); ++i) set(i, normal() * spread);
  }
  void set(std::int64_t i, double value) {
    if (view.dtype == DType::f32) as<float>()[i] = static_cast<float>(value);
    if (view.dtype == DType::f64) as<double>()[i] = value;
    if (view.dtype == DType::bf16) {
      const float single = static_cast<float>(value);
      std::uint32_t bits;
      std::memcpy(&bits, &single, sizeof bits);
      as<std::uint16_t>()[i] = static_cast<std::uint16_t>(bits >> 16);
    }
  }
};

inline Tensor ints(const std::vector<std::int32_t>& values) {
  Tensor tensor(DType::i32, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<std::int32_t>());
  return tensor;
}

inline DType random_float() {
  constexpr DType kinds[] = {DType::f32, DType::f64, DType::bf16};
  return kinds[pick(0, 2)];
}

// Of a cache: as the rows, or narrower.
inline DType random_cache(DType dtype) {
  return dtype == DType::f32 && pick(0, 1) ? DType::bf16 : dtype;
}

inline double tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-9 : dtype == DType::f32 ? 1e-3 : 0.1;
}

// One random call each; main() in fuzz_ops.cc runs them on every instruction set.
void advance_rows();
void decode_steps();
void decoder();
void match_stop();
void norm_and_act();
void rope();
void linear();
void linear_int8();
void kv_write_int8();
void loops();
void attention_int8();

}  // namespace fuzz
