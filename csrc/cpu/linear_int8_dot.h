// Integer dot products of a few quantised rows with panels of weights, exact on every instruction
// set. Included by linear_int8_kernel.cc alone.
#pragma once

#include "amx.h"
#include "linear_int8.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {

constexpr int kRows = static_cast<int>(kInt8Rows), kStep = static_cast<int>(kInt8Step);
constexpr int kPanel = static_cast<int>(kInt8Panel);

// Quantised rows as the multiplication takes them: bytes for AMX; bytes + 128 for VNNI, whose left
// operand has no sign; 16 bits for AVX-512 without it, for vpmaddwd, whose sums cannot saturate.
// AVX2 takes bytes + 63 of 7-bit rows, 0 to 126: vpmaddubsw does twice the work of vpmaddwd, and
// two of its results are added before they are widened, since weights are packed so that four
// products fit 16 bits (linear_int8.h). What the eighth bit would have kept a scale per step keeps.
#if defined(FASTSI_AMX)
using Element = std::int8_t;
constexpr int kOffset = 0;
constexpr bool kWholeBlocks = true;  // whether all rows of a block are multiplied
#elif defined(FASTSI_VNNI)
using Element = std::uint8_t;
constexpr int kOffset = 128;
constexpr bool kWholeBlocks = false;
#elif defined(__AVX2__) && !defined(__AVX512F__)
#define FASTSI_INT8_STEP_SCALES 1
using Element = std::uint8_t;
constexpr int kOffset = 63;
constexpr bool kWholeBlocks = false;
#else
using Element = std::int16_t;
constexpr int kOffset = 0;
constexpr bool kWholeBlocks = false;
#endif
#if defined(FASTSI_INT8_STEP_SCALES)
using Sum = float;  // of the steps, each times its scales
constexpr bool kStepScales = true;
constexpr float kRowLevels = 63.0f;  // largest magnitude of a quantised row
#else
using Sum = std::int32_t;
constexpr bool kStepScales = false;
constexpr float kRowLevels = 127.0f;
#endif

// Cache lines of the next weights, of which a share is asked for at every step of a pass: rows that
// meet a panel would wait for it, and the hardware stops reading ahead at pages of 4 KiB.
template <bool Once>  // as Int8Task::once
struct NextWeights {
  static constexpr bool kOnce = Once;
  const char* at;
  int lines;

  void fetch() {
    for (int i = 0; i < lines; ++i, at += 64) __builtin_prefetch(at, 0, Once ? 0 : 2);
  }
};

#if defined(FASTSI_AMX)

// linear_int8_kernel.cc multiplies tiles.

#elif defined(FASTSI_VNNI)

#if defined(__AVX512VNNI__)
using Bytes = __m512i;
constexpr int kMaxRows = 8;
FASTSI_INLINE Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
FASTSI_INLINE void store_sums(std::int32_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
FASTSI_INLINE Bytes negative(Bytes v) { return _mm512_sub_epi32(_mm512_setzero_si512(), v); }
FASTSI_INLINE Bytes four_bytes(std::int32_t x) { return _mm512_set1_epi32(x); }
FASTSI_INLINE Bytes add_products(Bytes sum, Bytes x, Bytes w) {
  return _mm512_dpbusd_epi32(sum, x, w);
}
#else
using Bytes = __m256i;
constexpr int kMaxRows = 4;
FASTSI_INLINE Bytes load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
FASTSI_INLINE void store_sums(std::int32_t* p, Bytes v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}
FASTSI_INLINE Bytes negative(Bytes v) { return _mm256_sub_epi32(_mm256_setzero_si256(), v); }
FASTSI_INLINE Bytes four_bytes(std::int32_t x) { return _mm256_set1_epi32(x); }
FASTSI_INLINE Bytes add_products(Bytes sum, Bytes x, Bytes w) {
  return _mm256_dpbusd_avx_epi32(sum, x, w);
}
#endif
constexpr int kColumns = sizeof(Bytes) / 4;  // of a vector: four weights each

// Vectors of P panels, and how many of them one pass over the depth takes.
template <int P>
inline constexpr int kVectors = P * kPanel / kColumns;
template <int P>
inline constexpr int kTogether = kVectors<P> < 2 ? kVectors<P> : 2;
template <int P>
inline constexpr int kPasses = kVectors<P> / kTogether<P>;

// Bytes ahead at which weights are fetched from the second-level cache, which deep panels fill.
constexpr int kNear = 2048;

// Sums of R rows by P panels, [R][P][16], from rows that are kStep apart. Rows hold 128 too much,
// and the sums of the weights take it off again.
template <int R, int P, class Next>
static void dot(const Int8Task& task, std::int64_t, const Element* x,
                const std::int8_t* const* panels, std::int64_t panel, Next next, Sum* sums) {
  constexpr int V = kTogether<P>;
  for (int c = 0; c < P * kPanel; c += V * kColumns) {
    const std::int8_t* from[V];
    Bytes sum[R][V];
    for (int v = 0; v < V; ++v) {
      const int column = c + v * kColumns;
      from[v] = panels[column / kPanel] + column % kPanel * 4;
      const Bytes offset = load_bytes(task.weight_sum + panel * kPanel + column);
      for (int r = 0; r < R; ++r) sum[r][v] = negative(offset);
    }
    for (std::int64_t s = 0; s < task.steps; ++s) {
      next.fetch();
      for (int k = 0; k < kStep; k += 4) {
        Bytes w[V];
        for (int v = 0; v < V; ++v) {
          const std::int8_t* at = from[v] + (s * kStep + k) * kPanel;
          w[v] = load_bytes(at);
          __builtin_prefetch(at + kNear, 0, Next::kOnce ? 0 : 3);
        }
        for (int r = 0; r < R; ++r) {
          std::int32_t four;
          std::memcpy(&four, x + (s * kRows + r) * kStep + k, sizeof four);
          const Bytes value = four_bytes(four);
          for (int v = 0; v < V; ++v) sum[r][v] = add_products(sum[r][v], value, w[v]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) store_sums(sums + r * P * kPanel + c + v * kColumns, sum[r][v]);
    }
  }
}

#elif defined(FASTSI_INT8_STEP_SCALES)

FASTSI_INLINE __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

constexpr int kMaxRows = 4;
constexpr int kVectors = 2, kLanes32 = 8;  // of a panel: eight columns each
template <int P>
inline constexpr int kPasses = P;  // over the depth
alignas(32) constexpr std::int16_t kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// sums of 16 columns += eight values of a row times their weights, [value / 4][column / 8]. In
// assembly, because compilers reorder integer additions over rows and run out of registers: eight
// sums, four weights and four products are all there are, so the ones stay in memory.
FASTSI_INLINE void add_eight(const Element* x, const __m256i (&w)[2][kVectors],
                             __m256i (&sum)[kVectors]) {
  using Four = const Element(*)[4];
  __m256i a, b, c, d;
  __asm__(
      "vpbroadcastd %[x0], %[a]\n\t"
      "vpbroadcastd %[x1], %[b]\n\t"
      "vpmaddubsw %[w00], %[a], %[c]\n\t"
      "vpmaddubsw %[w10], %[b], %[d]\n\t"
      "vpmaddubsw %[w01], %[a], %[a]\n\t"
      "vpmaddubsw %[w11], %[b], %[b]\n\t"
      "vpaddw %[d], %[c], %[c]\n\t"
      "vpaddw %[b], %[a], %[a]\n\t"
      "vpmaddwd %[ones], %[c], %[c]\n\t"
      "vpmaddwd %[ones], %[a], %[a]\n\t"
      "vpaddd %[c], %[sum0], %[sum0]\n\t"
      "vpaddd %[a], %[sum1], %[sum1]"
      : [sum0] "+x"(sum[0]), [sum1] "+x"(sum[1]), [a] "=&x"(a), [b] "=&x"(b), [c] "=&x"(c),
        [d] "=&x"(d)
      : [x0] "m"(*reinterpret_cast<Four>(x)), [x1] "m"(*reinterpret_cast<Four>(x + 4)),
        [w00] "x"(w[0][0]), [w01] "x"(w[0][1]), [w10] "x"(w[1][0]), [w11] "x"(w[1][1]),
        [ones] "m"(kOnes));
}

// Sums of R rows by P panels, [R][P][16]: for every step an exact integer, times the product of the
// row's and the column's scale of that step, added in order.
template <int R, int P, class Next>
static void dot(const Int8Task& task, std::int64_t row, const Element* x,
                const std::int8_t* const* panels, std::int64_t panel, Next next, Sum* sums) {
  for (int i = 0; i < R * P * kPanel; i += kLanes32) store<float>(sums + i, vf{});
  for (int p = 0; p < P; ++p) {
    const std::int64_t columns = (panel + p) * task.steps * kPanel;
    for (std::int64_t s = 0; s < task.steps; ++s) {
      const std::int64_t at = columns + s * kPanel;
      const std::int8_t* weights = panels[p] + s * kStep * kPanel;
      const Element* from = x + s * kRows * kStep;
      next.fetch();
      __m256i sum[R][kVectors];
      for (int v = 0; v < kVectors; ++v) {
        const std::int32_t* offset = task.weight_sum + at + v * kLanes32;
        const __m256i start = _mm256_sub_epi32(_mm256_setzero_si256(), load_bytes(offset));
        for (int r = 0; r < R; ++r) sum[r][v] = start;
      }
#pragma GCC unroll 1
      for (int k = 0; k < kStep; k += 8) {
        __m256i w[2][kVectors];
        for (int i = 0; i < 2; ++i) {
          for (int v = 0; v < kVectors; ++v) {
            w[i][v] = load_bytes(weights + (k + 4 * i) * kPanel + v * 4 * kLanes32);
          }
        }
        for (int r = 0; r < R; ++r) add_eight(from + r * kStep + k, w, sum[r]);
      }
      for (int v = 0; v < kVectors; ++v) {
        const vf weight_scale = load<float>(task.weight_scale + at + v * kLanes32);
        for (int r = 0; r < R; ++r) {
          const vf scale = splat<float>(task.row_scale[(row + r) * task.steps + s]) * weight_scale;
          Sum* to = sums + (r * P + p) * kPanel + v * kLanes32;
          store<float>(to, load<float>(to) + _mm256_cvtepi32_ps(sum[r][v]) * scale);
        }
      }
    }
  }
}

#elif defined(__AVX512F__)

using Words = __m512i;
constexpr int kMaxRows = 8;
FASTSI_INLINE Words widen(const std::int8_t* w) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
}
FASTSI_INLINE Words four_words(std::int64_t x) { return _mm512_set1_epi64(x); }
FASTSI_INLINE Words multiply_add(Words sum, Words a, Words b) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}
constexpr int kColumns = sizeof(Words) / 8;  // of a vector: four weights of 16 bits each
constexpr int kVectors = 2;                  // of accumulators per row
template <int P>
inline constexpr int kPasses = P * kPanel / (kVectors * kColumns);  // over the depth

// Sums of R rows by P panels, [R][P][16]. A lane pair holds two partial sums of a column.
template <int R, int P, class Next>
static void dot(const Int8Task& task, std::int64_t, const Element* x,
                const std::int8_t* const* panels, std::int64_t, Next, Sum* sums) {
  for (int p = 0; p < P; ++p) {
    for (int c = 0; c < kPanel; c += kVectors * kColumns) {
      Words sum[R][kVectors] = {};
      for (std::int64_t s = 0; s < task.steps; ++s) {
        for (int k = 0; k < kStep; k += 4) {
          const std::int8_t* from = panels[p] + (s * kStep + k) * kPanel + c * 4;
          Words w[kVectors];
          for (int v = 0; v < kVectors; ++v) w[v] = widen(from + v * kColumns * 4);
          for (int r = 0; r < R; ++r) {
            std::int64_t four;
            std::memcpy(&four, x + (s * kRows + r) * kStep + k, sizeof four);
            const Words value = four_words(four);
            for (int v = 0; v < kVectors; ++v) sum[r][v] = multiply_add(sum[r][v], value, w[v]);
          }
        }
      }
      for (int r = 0; r < R; ++r) {
        std::int32_t lanes[kVectors * kColumns * 2];
        std::memcpy(lanes, sum[r], sizeof lanes);
        std::int32_t* to = sums + (r * P + p) * kPanel + c;
        for (int i = 0; i < kVectors * kColumns; ++i) to[i] = lanes[2 * i] + lanes[2 * i + 1];
      }
    }
  }
}

#else

constexpr int kMaxRows = 1;
template <int P>
inline constexpr int kPasses = P;  // over the depth

template <int R, int P, class Next>
static void dot(const Int8Task& task, std::int64_t, const Element* x,
                const std::int8_t* const* panels, std::int64_t, Next, Sum* sums) {
  static_assert(R == 1, "rows one by one");
  for (int p = 0; p < P; ++p) {
    std::int32_t sum[kPanel] = {};
    for (std::int64_t s = 0; s < task.steps; ++s) {
      for (int k = 0; k < kStep; k += 4) {
        const std::int8_t* w = panels[p] + (s * kStep + k) * kPanel;
        const Element* v = x + s * kRows * kStep + k;
        for (int c = 0; c < kPanel; ++c) {
          for (int j = 0; j < 4; ++j) sum[c] += v[j] * w[4 * c + j];
        }
      }
    }
    std::memcpy(sums + p * kPanel, sum, sizeof sum);
  }
}

#endif

}  // namespace FASTSI_ISA
}  // namespace fastsi
