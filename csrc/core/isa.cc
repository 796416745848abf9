#include "fastsi/isa.h"

#include <atomic>
#if defined(FASTSI_X86_KERNELS)
#include <cpuid.h>
#endif
#if defined(FASTSI_AMX_KERNELS)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "fastsi/check.h"

namespace fastsi {
namespace {

Isa widest() {
  Isa best = Isa::portable;
  for (Isa candidate : kIsas) {
    if (isa_available(candidate)) best = candidate;
  }
  return best;
}

#if defined(FASTSI_X86_KERNELS)
// Bits of EAX of leaf 7, subleaf 1.
[[maybe_unused]] constexpr unsigned kAvxVnni = 1u << 4, kAvx512Bf16 = 1u << 5;
[[maybe_unused]] bool has_feature(unsigned bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & bit) != 0;
}
#endif

#if defined(FASTSI_AMX_KERNELS)
// The kernel saves tiles only for a process that has asked; its threads and children inherit it.
bool amx_granted() {
#if defined(FASTSI_EMULATE_AMX)
  return true;
#else
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  if ((edx & kBf16) == 0 || (edx & kTile) == 0 || (edx & kInt8) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
}
#endif

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{widest()};
  return value;
}

}  // namespace

bool isa_available(Isa isa) {
#if defined(FASTSI_X86_KERNELS)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx2_vnni:
#if defined(FASTSI_AVX_VNNI_KERNELS)
      return isa_available(Isa::avx2) && has_feature(kAvxVnni);
#else
      return false;
#endif
    case Isa::avx512:
      return isa_available(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Isa::avx512_vnni:
      return isa_available(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::avx512_bf16:
#if defined(FASTSI_AVX512_BF16_KERNELS)
      return isa_available(Isa::avx512_vnni) && has_feature(kAvx512Bf16);
#else
      return false;
#endif
    case Isa::amx: {
#if defined(FASTSI_AMX_KERNELS)
      static const bool granted = isa_available(Isa::avx512_bf16) && amx_granted();
      return granted;
#else
      return false;
#endif
    }
  }
  return false;
#else
  return isa == Isa::portable;
#endif
}

bool prefetchnta_pays() {
#if defined(FASTSI_X86_KERNELS)
  static const bool pays = [] {
    __builtin_cpu_init();
    return __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512vnni");
  }();
  return pays;
#else
  return false;
#endif
}

const char* name_of(Isa isa) {
  constexpr const char* names[] = {"portable",    "avx2",        "avx2_vnni", "avx512",
                                   "avx512_vnni", "avx512_bf16", "amx"};
  return names[static_cast<int>(isa)];
}

Isa isa() { return current().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) {
  if (name == "auto") {
    current().store(widest());
    return;
  }
  for (Isa candidate : kIsas) {
    if (name != name_of(candidate)) continue;
    FASTSI_CHECK(isa_available(candidate), "instruction set ", name,
                 ": this CPU or this build lacks it; the widest available is ", name_of(widest()));
    current().store(candidate);
    return;
  }
  fail("instruction set ", name,
       ": must be auto, portable, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16 or amx");
}

}  // namespace fastsi
