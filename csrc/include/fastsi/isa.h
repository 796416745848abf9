// Instruction set of the kernels: compiled from one source, chosen at run time.
#pragma once

#include <string>

namespace fastsi {

// avx2_vnni and avx512_vnni add dot products of bytes, of use to int8 kernels alone; other kernels
// are those of avx2 and avx512. avx512_bf16 adds dot products of bfloat16 to avx512_vnni, for
// linear layers in bfloat16. amx: all of these, and the matrix tiles of AMX for bfloat16 and int8.
enum class Isa : int {
  portable = 0,
  avx2 = 1,
  avx2_vnni = 2,
  avx512 = 3,
  avx512_vnni = 4,
  avx512_bf16 = 5,
  amx = 6
};
inline constexpr Isa kIsas[] = {Isa::portable,    Isa::avx2,        Isa::avx2_vnni, Isa::avx512,
                                Isa::avx512_vnni, Isa::avx512_bf16, Isa::amx};

// Sets the instruction set for all later calls: "portable", "avx2", "avx2_vnni",
// "avx512", "avx512_vnni", "avx512_bf16", "amx", or "auto" for the widest that this build holds and
// this CPU runs. Throws std::invalid_argument for any other name, or for one that cannot run here.
void set_isa(const std::string& name);

Isa isa();
const char* name_of(Isa isa);

// Whether weights of short steps are asked for as not to be kept (prefetchnta): on AMD's CPUs with
// VNNI, where int8 steps of 32 rows take 0.98 of the time so (measured on Zen 5, docs/log.md).
// Elsewhere it is not measured: how far such lines come and how long they stay differs by CPU.
bool prefetchnta_pays();

// Whether the build holds it and the CPU runs it.
bool isa_available(Isa isa);

}  // namespace fastsi
