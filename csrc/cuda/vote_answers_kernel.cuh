// The kernel of vote_answers.cu, apart from its launch, so that csrc/tests can run it on threads.
//
// A warp spells a path's bytes into a buffer of its own, looks for marks at 32 positions at a time,
// and its first lane reads the key; the rules are those of vote_span_device.h, and what they leave
// over is flagged for the host.
#pragma once

#include <cstdint>

#include "fastsi/vote_span_device.h"

namespace fastsi::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr std::uint8_t kSkipped = 1, kByte = 2;  // flags of fastsi.ops.TokenBytes

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

}  // namespace
}  // namespace fastsi::cuda
