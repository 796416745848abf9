// The kernel of vote_answers on threads, for tests/ops/test_vote_answers_cuda.py (through ctypes).
#include "emulated_warps.h"  // before the kernel, which finds CUDA's names in it

#include "cuda/vote_answers_kernel.cuh"

extern "C" void read_path_keys(const char* data, const std::int64_t* offsets,
                               const std::uint8_t* flags, std::int64_t size, int strip,
                               const std::int32_t* tokens, const std::int64_t* path_indptr,
                               std::int64_t paths, char* scratch, int capacity, int blocks,
                               std::uint8_t* status, std::uint8_t* kind, std::int64_t* numerator,
                               std::int64_t* denominator, long long* bad_token) {
  using namespace fastsi::cuda;
  const Table table{data, offsets, flags, size, strip != 0};
  const Result result{status, kind, numerator, denominator, bad_token};
  emulated::launch(blocks, kWarpsPerBlock, [&] {
    read_keys(table, tokens, path_indptr, paths, scratch, capacity, result);
  });
}
