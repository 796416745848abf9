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
// operand has no sign; 16 bits elsewhere, for vpmaddwd, whose sums cannot saturate as those of
// vpmaddubsw do.
#if defined(FASTSI_AMX)
using Element = std::int8_t;
constexpr int kOffset = 0;
#elif defined(__AVX512VNNI__)
using Element = std::uint8_t;
constexpr int kOffset = 128;
#else
using Element = std::int16_t;
constexpr int kOffset = 0;
#endif

#if defined(FASTSI_AMX)

// linear_int8_kernel.cc multiplies tiles.

#elif defined(__AVX512VNNI__)

// Sums of R rows by P panels, [R][P][16], from rows that are kStep apart.
template <int R, int P>
static void dot(const Int8Task& task, const Element* x, const std::int8_t* const* panels,
                std::int64_t panel, std::int32_t* sums) {
  __m512i sum[R][P];
  for (int p = 0; p < P; ++p) {
    const __m512i offset = _mm512_loadu_si512(task.weight_sum + (panel + p) * kPanel);
    for (int r = 0; r < R; ++r) sum[r][p] = _mm512_sub_epi32(_mm512_setzero_si512(), offset);
  }
  for (std::int64_t s = 0; s < task.steps; ++s) {
    for (int k = 0; k < kStep; k += 4) {
      __m512i w[P];
      for (int p = 0; p < P; ++p) {
        w[p] = _mm512_loadu_si512(panels[p] + (s * kStep + k) * kPanel);
        _mm_prefetch(reinterpret_cast<const char*>(panels[p] + (s * kStep + k) * kPanel + 2048),
                     _MM_HINT_T0);
      }
      for (int r = 0; r < R; ++r) {
        std::int32_t four;
        std::memcpy(&four, x + (s * kRows + r) * kStep + k, sizeof four);
        const __m512i v = _mm512_set1_epi32(four);
        for (int p = 0; p < P; ++p) sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], v, w[p]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) _mm512_storeu_si512(sums + (r * P + p) * kPanel, sum[r][p]);
  }
}
constexpr int kMaxRows = 8;

#elif defined(__AVX2__)

#if defined(__AVX512F__)
using Words = __m512i;
constexpr int kMaxRows = 8;
FASTSI_INLINE Words widen(const std::int8_t* w) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
}
FASTSI_INLINE Words four_words(std::int64_t x) { return _mm512_set1_epi64(x); }
FASTSI_INLINE Words multiply_add(Words sum, Words a, Words b) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}
#else
using Words = __m256i;
constexpr int kMaxRows = 4;
FASTSI_INLINE Words widen(const std::int8_t* w) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
}
FASTSI_INLINE Words four_words(std::int64_t x) { return _mm256_set1_epi64x(x); }
FASTSI_INLINE Words multiply_add(Words sum, Words a, Words b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
#endif
constexpr int kColumns = sizeof(Words) / 8;  // of a vector: four weights of 16 bits each
constexpr int kVectors = 2;                  // of accumulators per row

// Sums of R rows by P panels, [R][P][16]. A lane pair holds two partial sums of a column.
template <int R, int P>
static void dot(const Int8Task& task, const Element* x, const std::int8_t* const* panels,
                std::int64_t, std::int32_t* sums) {
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

template <int R, int P>
static void dot(const Int8Task& task, const Element* x, const std::int8_t* const* panels,
                std::int64_t, std::int32_t* sums) {
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
