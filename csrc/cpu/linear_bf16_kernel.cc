// Linear layers of rows and weights rounded to bfloat16, with sums in float32. Compiled once per
// instruction set; see kernels.h.
//
// A step is two inputs: a word of the weights holds both of a column. A CPU that multiplies
// bfloat16 takes such words of rows too; elsewhere the rows' rounded values are kept as float32,
// and the two of a word of weights become vectors of their own.
#include "linear_panels.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

struct Bf16 {
  static constexpr int kInputs = 2;
#if defined(__AVX512BF16__)
  static constexpr int kWords = 1;
  using Value = __m512bh;
  using Weights = __m512bh;
  using Kept = bf16;

  FASTSI_INLINE Value value(const float* at) {
    std::int32_t pair;
    std::memcpy(&pair, at, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  FASTSI_INLINE Weights weights(const float* at) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(at));
  }
  FASTSI_INLINE vf add(Value value, Weights weights, vf sum) {
    return _mm512_dpbf16_ps(sum, weights, value);
  }
#else
  static constexpr int kWords = 2;
  struct Pair {
    vf first, second;
  };
  using Value = Pair;
  using Weights = Pair;
  using Kept = float;

  FASTSI_INLINE Value value(const float* at) { return {splat(at[0]), splat(at[1])}; }
  FASTSI_INLINE Weights weights(const float* at) {
    vu32 words;
    std::memcpy(&words, at, sizeof words);
    const vu32 low = words << 16, high = words & 0xFFFF0000u;
    Weights pair;
    std::memcpy(&pair.first, &low, sizeof low);
    std::memcpy(&pair.second, &high, sizeof high);
    return pair;
  }
  FASTSI_INLINE vf add(Value value, Weights weights, vf sum) {
    return fma(value.second, weights.second, fma(value.first, weights.first, sum));
  }
#endif

  static std::int64_t row_bytes(const LinearTask& task) {
    constexpr std::int64_t kLineBytes = 64;
    const std::int64_t used = (task.k + 1) / 2 * kWords * 4;
    return (used + kLineBytes - 1) / kLineBytes * kLineBytes;
  }

  static void prepare(const LinearTask& task, std::int64_t row, char* to) {
    const float* x = row_of(task, row);
    auto* kept = reinterpret_cast<Kept*>(to);
    std::int64_t k = 0;
#if defined(__AVX512BF16__)
    for (; k + 2 * kLanes<float> <= task.k; k += 2 * kLanes<float>) {
      const __m512bh pairs = _mm512_cvtne2ps_pbh(load(x + k + kLanes<float>), load(x + k));
      std::memcpy(kept + k, &pairs, sizeof pairs);
    }
#endif
    for (; k < task.k; ++k) {
      bf16 rounded;
      from_arith(x[k], &rounded);
      keep(rounded, kept + k);
    }
    if (task.k % 2 != 0) keep(bf16{0}, kept + task.k);
  }
  FASTSI_INLINE void keep(bf16 x, bf16* to) { *to = x; }
  FASTSI_INLINE void keep(bf16 x, float* to) { *to = to_arith(x); }
};
using Panels = LinearPanels<Bf16>;

}  // namespace

LinearLayout linear_bf16_layout() { return Panels::layout(); }

std::size_t linear_bf16_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  return Panels::scratch(task, rows, panels);
}

void linear_bf16_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows, std::int64_t,
                         void* scratch) {
  Panels::prepare(task, row, rows, scratch);
}

void linear_bf16(const LinearTask& task, const LinearBlock& block, void* scratch) {
  Panels::run(task, block, scratch);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
