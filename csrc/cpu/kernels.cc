#include "kernels.h"

#include "fastsi/isa.h"

namespace fastsi {

const Kernels& kernels() {
// Of `vnni`, a form of `isa` with integer products, comes what has such products.
#define FASTSI_TABLE(vnni, isa)                                                                   \
  {                                                                                               \
    vnni::attention_scratch, vnni::attention, isa::linear_fp32_layout, isa::linear_fp32_scratch,  \
        isa::linear_fp32_prepare, isa::linear_fp32, isa::merge, isa::sample_scratch, isa::sample, \
        isa::norm, isa::rope, isa::act                                                            \
  }
  // clang-format off
  static constexpr Kernels table[] = {
      FASTSI_TABLE(portable, portable),
#if defined(FASTSI_X86_KERNELS)
      FASTSI_TABLE(avx2, avx2),
#if defined(FASTSI_AVX_VNNI_KERNELS)
      FASTSI_TABLE(avx2_vnni, avx2),
#else
      FASTSI_TABLE(avx2, avx2),
#endif
      FASTSI_TABLE(avx512, avx512),
      FASTSI_TABLE(avx512_vnni, avx512),
#endif
#if defined(FASTSI_AMX_KERNELS)
      FASTSI_TABLE(amx, amx),
#endif
  };
  // clang-format on
#undef FASTSI_TABLE
  return table[static_cast<int>(isa())];
}

}  // namespace fastsi
