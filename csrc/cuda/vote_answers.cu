// Answer keys of token paths, one warp per path.
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/vote_answers_kernel.cuh"
#include "fastsi/check.h"
#include "fastsi/cuda.h"

namespace fastsi::cuda {
namespace {

constexpr std::int64_t kMaxCapacity = 1 << 24;  // 32 tokens of this size fit an int

template <class T>
T* output(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

Table table_of(const TokenBytes& from) {
  require_dims("table.flags", from.flags, 1);
  require_dims("table.data", from.data, 1);
  const std::int64_t size = from.flags.shape[0];
  return {vector_of<char>("table.data", from.data, DType::u8, from.data.shape[0]),
          vector_of<std::int64_t>("table.offsets", from.offsets, DType::i64, size + 1),
          vector_of<std::uint8_t>("table.flags", from.flags, DType::u8, size), size,
          from.strip_first_blank};
}

}  // namespace

void read_path_keys(const TensorView& tokens, const TensorView& path_indptr,
                    const TokenBytes& table, const TensorView& scratch, const PathKeys& result,
                    std::uintptr_t stream) {
  require_dims("tokens", tokens, 1);
  require_contiguous("tokens", tokens);
  FASTSI_CHECK(tokens.dtype == DType::i32 || tokens.dtype == DType::i64, "tokens: is ",
               name_of(tokens.dtype), ", must be int32 or int64");
  require_dims("path_indptr", path_indptr, 1);
  const std::int64_t paths = path_indptr.shape[0] - 1;
  FASTSI_CHECK(paths >= 0, "path_indptr: is empty, must hold at least 0");
  const auto* indptr = vector_of<std::int64_t>("path_indptr", path_indptr, DType::i64, paths + 1);
  require_dims("scratch", scratch, 2);
  require_dtype("scratch", scratch, DType::u8);
  require_contiguous("scratch", scratch);
  const std::int64_t blocks = scratch.shape[0] / kWarpsPerBlock, capacity = scratch.shape[1];
  FASTSI_CHECK(blocks >= 1 && blocks < (std::int64_t{1} << 31), "scratch: has ", scratch.shape[0],
               " rows, must have at least ", kWarpsPerBlock);
  FASTSI_CHECK(0 < capacity && capacity <= kMaxCapacity, "scratch: rows of ", capacity,
               " bytes, must be in [1, ", kMaxCapacity, "]");
  const Result out{output<std::uint8_t>("status", result.status, DType::u8, paths),
                   output<std::uint8_t>("kind", result.kind, DType::u8, paths),
                   output<std::int64_t>("numerator", result.numerator, DType::i64, paths),
                   output<std::int64_t>("denominator", result.denominator, DType::i64, paths),
                   output<long long>("bad_token", result.bad_token, DType::i64, 1)};
  if (paths == 0) return;
  const Table bytes = table_of(table);
  const auto launch = [&](const auto* ids) {
    read_keys<<<static_cast<unsigned>(blocks), kWarp * kWarpsPerBlock, 0,
                reinterpret_cast<cudaStream_t>(stream)>>>(bytes, ids, indptr, paths,
                                                          static_cast<char*>(scratch.data),
                                                          static_cast<int>(capacity), out);
  };
  if (tokens.dtype == DType::i32) {
    launch(static_cast<const std::int32_t*>(tokens.data));
  } else {
    launch(static_cast<const std::int64_t*>(tokens.data));
  }
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("vote_answers: ") + cudaGetErrorString(status));
  }
}

}  // namespace fastsi::cuda
