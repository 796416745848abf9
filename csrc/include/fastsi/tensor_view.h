// A tensor as the caller's framework holds it: pointer, shape, strides (in elements) and type.
// The caller keeps the memory alive for the duration of the call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastsi/check.h"

namespace fastsi {

enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, i32 = 4, i64 = 5, u8 = 6, i8 = 7 };
inline constexpr int kNumDTypes = 8;
inline constexpr int kMaxDims = 4;

inline const char* name_of(DType dtype) {
  constexpr const char* names[kNumDTypes] = {"float32", "float64", "bfloat16", "float16",
                                             "int32",   "int64",   "uint8",    "int8"};
  return names[static_cast<int>(dtype)];
}

inline std::size_t size_of(DType dtype) {
  constexpr std::size_t sizes[kNumDTypes] = {4, 8, 2, 2, 4, 8, 1, 1};
  return sizes[static_cast<int>(dtype)];
}

inline bool is_float(DType dtype) {
  return static_cast<int>(dtype) <= static_cast<int>(DType::f16);
}

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int dims = 0;
  std::int64_t shape[kMaxDims] = {};
  std::int64_t stride[kMaxDims] = {};

  std::int64_t numel() const {
    std::int64_t count = 1;
    for (int i = 0; i < dims; ++i) count *= shape[i];
    return count;
  }

  bool is_contiguous() const {
    if (numel() == 0) return true;
    std::int64_t expected = 1;
    for (int i = dims - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
};

inline void require_dims(const char* name, const TensorView& view, int dims) {
  FASTSI_CHECK(view.dims == dims, name, ": has ", view.dims, " dimensions, must have ", dims);
}

inline void require_dtype(const char* name, const TensorView& view, DType dtype) {
  FASTSI_CHECK(view.dtype == dtype, name, ": is ", name_of(view.dtype), ", must be ",
               name_of(dtype));
}

// A cache holds the type of the tensors that meet it, or bfloat16 or int8 for float32.
inline void require_cache_dtype(const char* name, const TensorView& cache, DType dtype) {
  const bool smaller = cache.dtype == DType::bf16 || cache.dtype == DType::i8;
  FASTSI_CHECK(cache.dtype == dtype || (dtype == DType::f32 && smaller), name, ": is ",
               name_of(cache.dtype), ", must be ", name_of(dtype),
               dtype == DType::f32 ? ", bfloat16 or int8" : "");
}

inline void require_size(const char* name, const TensorView& view, int dim, std::int64_t size) {
  FASTSI_CHECK(view.shape[dim] == size, name, ": dimension ", dim, " is ", view.shape[dim],
               ", must be ", size);
}

inline void require_contiguous(const char* name, const TensorView& view) {
  FASTSI_CHECK(view.is_contiguous(), name, ": must be contiguous");
}

// Rows of the last dimension are read with vector loads.
inline void require_dense_last(const char* name, const TensorView& view) {
  const int last = view.dims - 1;
  FASTSI_CHECK(view.numel() == 0 || view.shape[last] == 1 || view.stride[last] == 1, name,
               ": the last dimension must be contiguous, its stride is ", view.stride[last]);
}

// A checked one-dimensional contiguous tensor as a typed pointer.
template <class T>
const T* vector_of(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  require_dims(name, view, 1);
  require_dtype(name, view, dtype);
  require_size(name, view, 0, size);
  require_contiguous(name, view);
  return static_cast<const T*>(view.data);
}

}  // namespace fastsi
