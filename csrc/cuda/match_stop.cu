// Ends of texts, one warp per row.
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/match_stop_kernel.cuh"
#include "fastsi/check.h"
#include "fastsi/cuda.h"

namespace fastsi::cuda {
namespace {

template <class T>
T* column(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

template <class T>
T* column(const char* name, const TensorView& view, DType dtype) {
  require_dims(name, view, 1);
  return column<T>(name, view, dtype, view.shape[0]);
}

}  // namespace

void match_stop(const TensorView& tokens, const TensorView& slots, const TokenBytes& table,
                const StopRules& rules, const StopState& state, const TensorView& scratch,
                const TensorView& hit, std::uintptr_t stream) {
  require_dims("tokens", tokens, 1);
  const std::int64_t rows = tokens.shape[0];
  const auto* token = column<std::int64_t>("tokens", tokens, DType::i64, rows);
  const auto* slot = column<std::int64_t>("slots", slots, DType::i64, rows);
  auto* out = column<std::uint8_t>("hit", hit, DType::u8, rows);
  require_dims("flags", table.flags, 1);
  const std::int64_t size = table.flags.shape[0];
  const StopTable spelled{
      column<char>("table.data", table.data, DType::u8),
      column<std::int64_t>("table.offsets", table.offsets, DType::i64, size + 1),
      column<std::uint8_t>("table.flags", table.flags, DType::u8, size), size};
  require_dims("answers", rules.answers, 1);
  const std::int64_t count = rules.answers.shape[0];
  const StopClasses classes{
      column<std::int64_t>("class_indptr", rules.class_indptr, DType::i64, count + 1),
      column<std::int64_t>("string_indptr", rules.string_indptr, DType::i64),
      column<char>("string_bytes", rules.string_bytes, DType::u8),
      column<std::uint8_t>("answers", rules.answers, DType::u8, count),
      column<std::uint8_t>("special", rules.special, DType::u8, count),
      count};
  for (const auto* view : {&state.tail, &scratch}) {
    require_dims("tail and scratch", *view, 2);
    require_dtype("tail and scratch", *view, DType::u8);
    require_contiguous("tail and scratch", *view);
  }
  const std::int64_t capacity = state.tail.shape[0];
  const StopTexts texts{column<std::int32_t>("rule", state.rule, DType::i32, capacity),
                        static_cast<char*>(state.tail.data),
                        column<std::int32_t>("length", state.length, DType::i32, capacity),
                        column<std::uint8_t>("thinking", state.thinking, DType::u8, capacity),
                        capacity,
                        static_cast<int>(state.tail.shape[1])};
  FASTSI_CHECK(scratch.shape[0] >= rows && scratch.shape[1] >= state.tail.shape[1] &&
                   scratch.shape[1] < (1 << 30),
               "scratch: is [", scratch.shape[0], ", ", scratch.shape[1], "], must be at least [",
               rows, ", ", state.tail.shape[1], "]");
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>((rows + kStopWarps - 1) / kStopWarps);
  find_stops<<<blocks, kStopLanes * kStopWarps, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
      token, slot, rows, spelled, classes, texts, static_cast<char*>(scratch.data),
      static_cast<int>(scratch.shape[1]), out);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("match_stop: ") + cudaGetErrorString(status));
  }
}

}  // namespace fastsi::cuda
