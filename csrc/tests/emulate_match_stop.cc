// The kernel of match_stop on threads, for tests/ops/test_match_stop_cuda.py (through ctypes).
#include "emulated_warps.h"  // before the kernel, which finds CUDA's names in it

#include "cuda/match_stop_kernel.cuh"

extern "C" void match_stop(const std::int64_t* tokens, const std::int64_t* slots, std::int64_t rows,
                           const char* data, const std::int64_t* offsets, const std::uint8_t* flags,
                           std::int64_t size, const std::int64_t* class_indptr,
                           const std::int64_t* string_indptr, const char* bytes,
                           const std::uint8_t* answers, const std::uint8_t* special,
                           std::int64_t classes, const std::int32_t* rule, char* tail,
                           std::int32_t* length, std::uint8_t* thinking, std::int64_t capacity,
                           int width, char* scratch, int scratch_width, std::uint8_t* hit) {
  using namespace fastsi::cuda;
  const StopTable table{data, offsets, flags, size};
  const StopClasses rules{class_indptr, string_indptr, bytes, answers, special, classes};
  const StopTexts texts{rule, tail, length, thinking, capacity, width};
  const int blocks = static_cast<int>((rows + kStopWarps - 1) / kStopWarps);
  emulated::launch(blocks, kStopWarps, [&] {
    find_stops(tokens, slots, rows, table, rules, texts, scratch, scratch_width, hit);
  });
}
