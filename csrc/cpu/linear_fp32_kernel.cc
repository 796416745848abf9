// float32 linear layers. Compiled once per instruction set; see kernels.h.
#include "linear_panels.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

// A step is one input; rows are read where they lie.
struct Fp32 {
  static constexpr int kInputs = 1, kWords = 1;
  using Value = vf;
  using Weights = vf;

  FASTSI_INLINE vf value(const float* at) { return splat(*at); }
  FASTSI_INLINE vf weights(const float* at) { return load(at); }
  FASTSI_INLINE vf add(vf value, vf weights, vf sum) { return fma(value, weights, sum); }

  static std::int64_t row_bytes(const LinearTask&) { return 0; }
  static void prepare(const LinearTask&, std::int64_t, char*) {}
};
using Panels = LinearPanels<Fp32>;

}  // namespace

LinearLayout linear_fp32_layout() { return Panels::layout(); }

std::size_t linear_fp32_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels) {
  return Panels::scratch(task, rows, panels);
}

void linear_fp32_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows, std::int64_t,
                         void* scratch) {
  Panels::prepare(task, row, rows, scratch);
}

void linear_fp32(const LinearTask& task, const LinearBlock& block, void* scratch) {
  Panels::run(task, block, scratch);
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
