#include "kernels.h"

#include "fastsi/isa.h"

namespace fastsi {

const Kernels& kernels() {
#define FASTSI_LINEAR(isa, name) \
  {isa::name##_layout, isa::name##_scratch, isa::name##_prepare, isa::name}
// Of `vnni` and `bf16`, forms of `isa` with products of integers and of bfloat16, comes what has
// such products.
#define FASTSI_TABLE(vnni, bf16, isa)                                                             \
  {                                                                                               \
    vnni::attention_scratch, vnni::attention, FASTSI_LINEAR(isa, linear_fp32),                    \
        FASTSI_LINEAR(bf16, linear_bf16), isa::merge, isa::sample_scratch, isa::sample, isa::top, \
        isa::norm, isa::rope, isa::act                                                            \
  }
  // clang-format off
  static constexpr Kernels table[] = {
      FASTSI_TABLE(portable, portable, portable),
#if defined(FASTSI_X86_KERNELS)
      FASTSI_TABLE(avx2, avx2, avx2),
#if defined(FASTSI_AVX_VNNI_KERNELS)
      FASTSI_TABLE(avx2_vnni, avx2, avx2),
#else
      FASTSI_TABLE(avx2, avx2, avx2),  // never chosen
#endif
      FASTSI_TABLE(avx512, avx512, avx512),
      FASTSI_TABLE(avx512_vnni, avx512, avx512),
#if defined(FASTSI_AVX512_BF16_KERNELS)
      FASTSI_TABLE(avx512_vnni, avx512_bf16, avx512),
#else
      FASTSI_TABLE(avx512_vnni, avx512, avx512),  // never chosen
#endif
#endif
#if defined(FASTSI_AMX_KERNELS)
      FASTSI_TABLE(amx, amx, amx),
#endif
  };
  // clang-format on
#undef FASTSI_TABLE
#undef FASTSI_LINEAR
  return table[static_cast<int>(isa())];
}

}  // namespace fastsi
