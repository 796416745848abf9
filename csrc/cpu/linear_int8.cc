#include "linear_int8.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "fastsi/isa.h"
#include "fastsi/parallel.h"
#include "kernels.h"

namespace fastsi {
namespace {

constexpr double kSerialWork = 6e6;       // of (rows + kRowsOfWeights) * weights
constexpr double kRowsOfWeights = 64;     // reading the weights takes as long as so many rows
constexpr std::int64_t kMostBlocks = 32;  // of a work item: its quantised rows stay in cache
constexpr std::int64_t kItemsPerThread = 4, kMostItemsPerThread = 64;
// Multiply-adds, 0.1 to 0.3 ms: threads are rarely equally fast.
constexpr double kItemWork = 1.5e7;
constexpr double kStreamBytes = 8 << 20;     // of output: no cache near the core holds as much
constexpr std::int64_t kFewRows = 64;        // whose step is so short that memory counts
constexpr std::int64_t kMostDepth = 131072;  // 127 * 127 * depth fits 32 bits

constexpr int kSpins = 2000;  // before a thread that waits gives way to others

// Counts down at the end of its life, after an error too: others wait for the count.
struct Countdown {
  std::atomic<std::int64_t>& left;
  ~Countdown() { left.fetch_sub(1, std::memory_order_release); }
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Int8Kernels {
  decltype(&portable::int8_format) format;
  decltype(&portable::int8_quantise) quantise;
  decltype(&portable::int8_multiply) multiply;
  decltype(&portable::int8_quantise_weight) quantise_weight;
};

const Int8Kernels& int8_kernels() {
#define FASTSI_TABLE(isa)                                                               \
  {                                                                                     \
    isa::int8_format, isa::int8_quantise, isa::int8_multiply, isa::int8_quantise_weight \
  }
  // clang-format off
  static constexpr Int8Kernels table[] = {
      FASTSI_TABLE(portable),
#if defined(FASTSI_X86_KERNELS)
      FASTSI_TABLE(avx2),
#if defined(FASTSI_AVX_VNNI_KERNELS)
      FASTSI_TABLE(avx2_vnni),
#else
      FASTSI_TABLE(avx2),  // never chosen
#endif
      FASTSI_TABLE(avx512),
      FASTSI_TABLE(avx512_vnni),
      FASTSI_TABLE(avx512_vnni),  // of avx512_bf16
#endif
#if defined(FASTSI_AMX_KERNELS)
      FASTSI_TABLE(amx),
#endif
  };
  // clang-format on
#undef FASTSI_TABLE
  return table[static_cast<int>(isa())];
}

// Panels, and steps of each.
struct Shape {
  std::int64_t panels, steps;
};

Shape check_packed(const LinearInt8Weights& packed) {
  FASTSI_CHECK(packed.n >= 0 && !(packed.pair && packed.n % 2), "weights: ", packed.n,
               " output features", packed.pair ? ", a pair must have an even number" : "");
  FASTSI_CHECK(0 < packed.k && packed.k <= kMostDepth, "weights: ", packed.k,
               " input features, int8 takes 1 to ", kMostDepth);
  const Shape shape{linear_int8_panels(packed.n, packed.pair), ceil_div(packed.k, kInt8Step)};
  const std::int64_t columns = shape.panels * kInt8Panel;
  vector_of<std::uint8_t>("weights", packed.data, DType::u8, columns * shape.steps * kInt8Step);
  FASTSI_CHECK(packed.step_scales == linear_int8_step_scales(), "weights: were packed ",
               packed.step_scales ? "for AVX2 without VNNI" : "for another instruction set",
               ", and ", name_of(isa()), " reads another form");
  const std::int64_t parts = packed.step_scales ? columns * shape.steps : columns;
  vector_of<float>("scales", packed.scale, DType::f32, parts);
  vector_of<std::int32_t>("sums", packed.sum, DType::i32, parts);
  return shape;
}

// The packed column of an output feature.
std::int64_t column_of(const LinearInt8Weights& packed, std::int64_t feature) {
  if (!packed.pair) return feature;
  const std::int64_t half = packed.n / 2, second = feature >= half ? 1 : 0;
  const std::int64_t column = feature - second * half;
  return (column / kInt8Panel * 2 + second) * kInt8Panel + column % kInt8Panel;
}

bool streams(const TensorView& out) {
  constexpr std::int64_t kLine = 64, kFloats = kLine / sizeof(float);
  const double bytes = static_cast<double>(out.numel()) * sizeof(float);
  const bool aligned =
      reinterpret_cast<std::uintptr_t>(out.data) % kLine == 0 && out.stride[0] % kFloats == 0;
  return aligned && bytes >= kStreamBytes;
}

}  // namespace

bool linear_int8_step_scales() { return int8_kernels().format().step_scales; }

std::int64_t linear_int8_panels(std::int64_t n, bool pair) {
  return pair ? 2 * ceil_div(n / 2, kInt8Panel) : ceil_div(n, kInt8Panel);
}

void linear_int8_pack(const TensorView& weight, const LinearInt8Weights& packed, std::int64_t first,
                      int threads) {
  const Shape shape = check_packed(packed);
  require_dims("weight", weight, 2);
  require_dtype("weight", weight, DType::f32);
  require_contiguous("weight", weight);
  require_size("weight", weight, 1, packed.k);
  FASTSI_CHECK(first >= 0 && first + weight.shape[0] <= packed.n, "weight: features ", first,
               " to ", first + weight.shape[0], " of ", packed.n);
  const std::int64_t depth = shape.steps * kInt8Step;
  const Int8Kernels& kernel = int8_kernels();
  const Int8Format format = kernel.format();
  if (static_cast<double>(weight.numel()) < kSerialElements) threads = 1;
  parallel_for(weight.shape[0], threads, [&](std::int64_t i) {
    const std::int64_t column = column_of(packed, first + i);
    // A scale and a sum of a column, or of each of its steps.
    const std::int64_t parts = format.step_scales ? shape.steps : 1, part = depth / parts;
    const auto floats = static_cast<std::size_t>(depth + parts) * sizeof(float);
    auto* scratch = static_cast<float*>(thread_scratch(floats + static_cast<std::size_t>(depth)));
    float* scales = scratch + depth;
    auto* values = reinterpret_cast<std::int8_t*>(scales + parts);
    kernel.quantise_weight(static_cast<const float*>(weight.data) + i * packed.k, packed.k,
                           shape.steps, values, scales, scratch);
    auto* to = static_cast<std::int8_t*>(packed.data.data) +
               column / kInt8Panel * kInt8Panel * depth + column % kInt8Panel * 4;
    for (std::int64_t k = 0; k < depth; ++k) to[k / 4 * 4 * kInt8Panel + k % 4] = values[k];
    for (std::int64_t s = 0; s < parts; ++s) {
      std::int32_t sum = 0;
      for (std::int64_t k = s * part; k < (s + 1) * part; ++k) sum += values[k];
      const std::int64_t at = (column / kInt8Panel * parts + s) * kInt8Panel + column % kInt8Panel;
      static_cast<float*>(packed.scale.data)[at] = scales[s];
      static_cast<std::int32_t*>(packed.sum.data)[at] = format.offset * sum;
    }
  });
}

void linear_int8(const TensorView& x, const LinearInt8Weights& packed, const LinearEpilogue& after,
                 const TensorView& out, int threads) {
  const Shape shape = check_packed(packed);
  check_linear_call(x, packed.k, packed.n, packed.pair, after, out);
  const std::int64_t rows = out.shape[0], depth = shape.steps * kInt8Step;
  if (rows == 0 || shape.panels == 0) return;
  const auto floats = [](const TensorView* view) {
    return view == nullptr ? nullptr : static_cast<const float*>(view->data);
  };
  const Int8Kernels& kernel = int8_kernels();
  const std::int64_t blocks = ceil_div(rows, kInt8Rows);
  const Int8Format format = kernel.format();
  const auto values = static_cast<std::size_t>(blocks * kInt8Rows * depth) * format.element_bytes;
  const std::int64_t each = format.step_scales ? shape.steps : 1;
  const auto scales = static_cast<std::size_t>(blocks * kInt8Rows * each) * sizeof(float);
  auto* quantised = static_cast<char*>(thread_scratch(values + scales, 1));
  const Int8Task task{floats(&x),
                      after.row_index == nullptr
                          ? nullptr
                          : static_cast<const std::int64_t*>(after.row_index->data),
                      static_cast<const std::int8_t*>(packed.data.data),
                      floats(&packed.scale),
                      static_cast<const std::int32_t*>(packed.sum.data),
                      floats(after.bias),
                      floats(after.residual),
                      static_cast<float*>(out.data),
                      x.stride[0],
                      after.residual == nullptr ? 0 : after.residual->stride[0],
                      out.stride[0],
                      rows,
                      packed.k,
                      shape.steps,
                      packed.pair ? packed.n / 2 : packed.n,
                      after.activation,
                      packed.pair,
                      streams(out),
                      prefetchnta_pays() && rows <= kFewRows,
                      quantised,
                      reinterpret_cast<float*>(quantised + values)};
  const double weights = static_cast<double>(depth) * static_cast<double>(packed.n);
  if ((static_cast<double>(rows) + kRowsOfWeights) * weights < kSerialWork) threads = 1;
  // Pairs of panels times chunks of blocks; a pair's chunks share its weights, so they go together,
  // for no more pairs than the cache holds.
  const std::int64_t pairs = ceil_div(shape.panels, 2), chunks = ceil_div(blocks, kMostBlocks);
  const auto fine = static_cast<std::int64_t>(static_cast<double>(rows) * weights / kItemWork);
  const std::int64_t each_thread = std::clamp(fine / threads, kItemsPerThread, kMostItemsPerThread);
  const std::int64_t wanted = threads == 1 ? 1 : ceil_div(each_thread * threads, chunks);
  const std::int64_t share = ceil_div(pairs, wanted), height = ceil_div(blocks, chunks);
  const auto multiply = [&](std::int64_t chunk, std::int64_t pair, std::int64_t count) {
    const std::int64_t block = chunk * height, panel = 2 * pair;
    kernel.multiply(task, {block, std::min(blocks, block + height), panel,
                           std::min(shape.panels, panel + 2 * count)});
  };
  // Rows are quantised in the same loop, by whoever comes first, since a loop of their own costs as
  // much as a small product. Who waits for a row waits for a running thread.
  std::atomic<std::int64_t> next{0}, left{blocks};
  const auto quantise = [&] {
    for (std::int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
      const Countdown done{left};
      const auto bytes = static_cast<std::size_t>(depth) * sizeof(float);
      kernel.quantise(task, block, static_cast<float*>(thread_scratch(bytes)));
    }
    for (int turn = 0; left.load(std::memory_order_acquire) > 0; ++turn) {
      if (turn > kSpins) std::this_thread::yield();
    }
  };
  parallel_ranges(pairs * chunks, share * chunks, threads, [&](std::int64_t i, std::int64_t end) {
    if (left.load(std::memory_order_acquire) > 0) quantise();
    while (i < end) {
      const std::int64_t pair = i / chunks, chunk = i % chunks;
      const std::int64_t whole = chunk == 0 ? (end - i) / chunks : 0;
      if (whole == 0) multiply(chunk, pair, 1);
      for (std::int64_t c = 0; whole > 0 && c < chunks; ++c) multiply(c, pair, whole);
      i += whole > 0 ? whole * chunks : 1;
    }
  });
}

}  // namespace fastsi
