#include "fastsi/isa.h"

#include <atomic>

#include "fastsi/check.h"

namespace fastsi {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avx512};

Isa widest() {
  Isa best = Isa::portable;
  for (Isa candidate : kAll) {
    if (isa_available(candidate)) best = candidate;
  }
  return best;
}

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
    case Isa::avx512:
      return isa_available(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
  }
  return false;
#else
  return isa == Isa::portable;
#endif
}

const char* name_of(Isa isa) {
  constexpr const char* names[] = {"portable", "avx2", "avx512"};
  return names[static_cast<int>(isa)];
}

Isa isa() { return current().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) {
  if (name == "auto") {
    current().store(widest());
    return;
  }
  for (Isa candidate : kAll) {
    if (name != name_of(candidate)) continue;
    FASTSI_CHECK(isa_available(candidate), "instruction set ", name,
                 ": this CPU or this build lacks it; the widest available is ", name_of(widest()));
    current().store(candidate);
    return;
  }
  fail("instruction set ", name, ": must be auto, portable, avx2 or avx512");
}

}  // namespace fastsi
