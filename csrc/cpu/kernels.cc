#include "kernels.h"

#include "fastsi/isa.h"

namespace fastsi {

const Kernels& kernels() {
#define FASTSI_TABLE(isa)                                                                         \
  {                                                                                               \
    isa::attention_scratch, isa::attention, isa::linear_fp32_layout, isa::linear_fp32_scratch,    \
        isa::linear_fp32_prepare, isa::linear_fp32, isa::merge, isa::sample_scratch, isa::sample, \
        isa::norm, isa::rope, isa::act                                                            \
  }
  // clang-format off
  static constexpr Kernels table[] = {
      FASTSI_TABLE(portable),
#if defined(FASTSI_X86_KERNELS)
      FASTSI_TABLE(avx2),
      FASTSI_TABLE(avx2),  // avx2_vnni
      FASTSI_TABLE(avx512),
      FASTSI_TABLE(avx512),  // avx512_vnni
#endif
#if defined(FASTSI_AMX_KERNELS)
      FASTSI_TABLE(amx),
#endif
  };
  // clang-format on
#undef FASTSI_TABLE
  return table[static_cast<int>(isa())];
}

}  // namespace fastsi
