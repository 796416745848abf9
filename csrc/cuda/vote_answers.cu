// Answer keys of token paths, one warp per path. A warp spells a path's bytes into a buffer of its
// own, looks for marks at 32 positions at a time, and its first lane reads the key; the rules are
// those of vote_span_device.h, and what they leave over is flagged for the host.
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "fastsi/check.h"
#include "fastsi/cuda.h"
#include "fastsi/vote_span_device.h"

namespace fastsi::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr std::uint8_t kSkipped = 1, kByte = 2;  // flags of fastsi.ops.TokenBytes
constexpr std::int64_t kMaxCapacity = 1 << 24;   // 32 tokens of this size fit an int

struct Table {
  const char* data;
  const std::int64_t* offsets;
  const std::uint8_t* flags;
  std::int64_t size;
  bool strip_first_blank;
};

struct Result {
  std::uint8_t* status;
  std::uint8_t* kind;
  std::int64_t* numerator;
  std::int64_t* denominator;
  long long* bad_token;
};

struct WarpLanes {
  __device__ int index() const { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ int count() const { return kWarp; }
  __device__ int max(int value) const { return __reduce_max_sync(kAllLanes, value); }
  __device__ int min(int value) const { return __reduce_min_sync(kAllLanes, value); }
};

// Sum of the values of this lane and those before it.
__device__ int running_sum(int value, int lane) {
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += before;
  }
  return value;
}

// Spells tokens [begin, end) into `buffer` and gives the number of bytes; -1 where the host must
// decode: beyond `capacity`, or byte tokens that are no ASCII, since a run of them may be no UTF-8.
template <class Token>
__device__ int spell(const Table& table, const Token* tokens, std::int64_t begin, std::int64_t end,
                     char* buffer, int capacity, long long* bad_token) {
  const int lane = WarpLanes().index();
  int size = 0;
  for (std::int64_t first = begin; first < end; first += kWarp) {
    const std::int64_t at = first + lane;
    const char* bytes = nullptr;
    int count = 0;
    bool is_wide_byte = false;
    if (at < end) {
      const auto token = static_cast<std::int64_t>(tokens[at]);
      if (token < 0 || token >= table.size) {
        atomicMin(bad_token, static_cast<long long>(at));
      } else if ((table.flags[token] & kSkipped) == 0) {
        bytes = table.data + table.offsets[token];
        const std::int64_t length = table.offsets[token + 1] - table.offsets[token];
        count = static_cast<int>(length <= capacity ? length : capacity + 1);
        is_wide_byte =
            (table.flags[token] & kByte) != 0 && count > 0 && vote::device::is_wide(*bytes);
      }
    }
    const int sum = running_sum(count, lane);
    const int total = __shfl_sync(kAllLanes, sum, kWarp - 1);
    if (size + total > capacity || __any_sync(kAllLanes, is_wide_byte)) return -1;
    for (int i = 0; i < count; ++i) buffer[size + sum - count + i] = bytes[i];
    size += total;
  }
  __syncwarp();
  return size;
}

template <class Token>
__global__ __launch_bounds__(kWarp* kWarpsPerBlock) void read_keys(Table table, const Token* tokens,
                                                                   const std::int64_t* path_indptr,
                                                                   std::int64_t paths,
                                                                   char* scratch, int capacity,
                                                                   Result result) {
  const WarpLanes lanes;
  const std::int64_t warp = static_cast<std::int64_t>(blockIdx.x) * kWarpsPerBlock +
                            static_cast<std::int64_t>(threadIdx.x) / kWarp;
  char* buffer = scratch + warp * capacity;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * kWarpsPerBlock;
  for (std::int64_t path = warp; path < paths; path += warps) {
    const int size = spell(table, tokens, path_indptr[path], path_indptr[path + 1], buffer,
                           capacity, result.bad_token);
    vote::DeviceKey key;
    auto status = vote::DeviceStatus::host;
    if (size >= 0) {
      const bool strip = table.strip_first_blank && size > 0 && buffer[0] == ' ';
      status = vote::device_answer_key(buffer + strip, size - strip, lanes, &key);
    }
    if (lanes.index() == 0) {
      result.status[path] = static_cast<std::uint8_t>(status);
      result.kind[path] = static_cast<std::uint8_t>(key.kind);
      result.numerator[path] = key.numerator;
      result.denominator[path] = key.denominator;
    }
    __syncwarp();  // before the buffer is written again
  }
}

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
