#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "fastsi/isa.h"
#include "fastsi/parallel.h"
#include "kernels.h"
#include "linear_short_weights.h"

namespace fastsi {
namespace {

constexpr double kSerialWork = 4e5;           // multiply-adds below which waking threads costs more
constexpr std::int64_t kMostRows = 256;       // rows of a work item
constexpr std::int64_t kMostPanels = 16;      // of a work item: their sums stay in cache
constexpr std::int64_t kMostBytes = 5 << 18;  // of rows that an item reads again and again
constexpr double kEnoughBalance = 0.95;       // share of the threads' time that items should fill

// What a thread's scratch holds: the rows from `row` of one call, prepared. Calls are numbered, so
// that scratch which another call or op has written to is never taken for this one's.
std::atomic<std::uint64_t> calls{0};
thread_local struct {
  std::uint64_t call = 0;
  std::int64_t row = 0;
} prepared;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Panels of n output features. Those of a pair hold as many first weights as second ones: first
// whole vectors, the first ones of what is left beside the second ones, and second whole vectors.
// So what belongs together lies within vectors.
std::int64_t panels_of(const LinearLayout& layout, std::int64_t n, bool pair) {
  return pair ? ceil_div(n / 2, layout.width / 2) : ceil_div(n, layout.width);
}

// Bytes stored of a weight.
int stored_bytes(const LinearLayout& layout, DType dtype, int bytes) {
  return dtype == DType::bf16 ? 2 : std::max(bytes, layout.least_bytes);
}

std::array<std::int64_t, 3> shape_of(const LinearLayout& layout, std::int64_t n, std::int64_t k,
                                     bool pair, DType dtype, int bytes) {
  const auto size = static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t filled = ceil_div(k, layout.depth) * layout.depth;
  return {panels_of(layout, n, pair),
          filled * stored_bytes(layout, dtype, bytes) / size / layout.inputs,
          layout.width * layout.inputs};
}

// The output feature in a packed column, or a number >= n where the column is padding.
std::int64_t feature_of(const LinearLayout& layout, const LinearWeights& packed,
                        std::int64_t column) {
  if (!packed.pair) return column;
  const std::int64_t half = packed.n / 2, outputs = layout.width / 2;
  const std::int64_t whole = outputs / layout.lanes * layout.lanes, rest = outputs - whole;
  const std::int64_t first = column / layout.width * outputs, at = column % layout.width;
  const bool second = at >= outputs;
  const std::int64_t place = at - (second ? outputs : 0);
  const std::int64_t output = !second ? place : place < rest ? whole + place : place - rest;
  return first + output < half ? first + output + (second ? half : 0) : packed.n;
}

const LinearKernel& kernel_of(const char* name, DType dtype) {
  FASTSI_CHECK(dtype == DType::f32 || dtype == DType::bf16, name, ": is ", name_of(dtype),
               ", must be float32 or bfloat16");
  return dtype == DType::f32 ? kernels().linear_fp32 : kernels().linear_bf16;
}

LinearLayout check_packed(const LinearWeights& packed) {
  const TensorView& data = packed.data;
  const LinearLayout layout = kernel_of("weights", data.dtype).layout();
  require_dims("weights", data, 3);
  require_contiguous("weights", data);
  FASTSI_CHECK(data.shape[2] == layout.width * layout.inputs, "weights: packed in panels of ",
               data.shape[2] / layout.inputs, " columns, instruction set ", name_of(isa()),
               " reads panels of ", layout.width, "; pack them again");
  FASTSI_CHECK(2 <= packed.bytes && packed.bytes <= 4, "weights: ", packed.bytes,
               " bytes, must be 2 to 4");
  FASTSI_CHECK(packed.n >= 0 && !(packed.pair && packed.n % 2), "weights: ", packed.n,
               " output features", packed.pair ? ", a pair must have an even number" : "");
  const auto shape = shape_of(layout, packed.n, packed.k, packed.pair, data.dtype, packed.bytes);
  require_size("weights", data, 0, shape[0]);
  require_size("weights", data, 1, shape[1]);
  return layout;
}

void check_plain(const TensorView& weight, const LinearWeights& packed, std::int64_t first) {
  require_dims("weight", weight, 2);
  require_dtype("weight", weight, packed.data.dtype);
  require_contiguous("weight", weight);
  require_size("weight", weight, 1, packed.k);
  FASTSI_CHECK(first >= 0 && first + weight.shape[0] <= packed.n, "weight: features ", first,
               " to ", first + weight.shape[0], " of ", packed.n);
}

// Calls visit(panel, column, k, element of the plain weight) for every element of the plain weight,
// panel by panel. Element: an integer of the weights' size.
template <class Element, class Visit>
void for_each_element(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                      int threads, Visit visit) {
  const LinearLayout layout = check_packed(packed);
  check_plain(weight, packed, first);
  const std::int64_t depth = packed.k, last = first + weight.shape[0];
  auto* plain = static_cast<Element*>(weight.data);
  auto* panels = static_cast<Element*>(packed.data.data);
  if (static_cast<double>(weight.numel()) < kSerialElements) threads = 1;
  parallel_for(packed.data.shape[0], threads, [&](std::int64_t p) {
    constexpr std::int64_t kStep = 16;  // one cache line of every feature at a time
    Element* panel = panels + p * packed.data.shape[1] * packed.data.shape[2];
    for (std::int64_t begin = 0; begin < depth; begin += kStep) {
      const std::int64_t end = std::min(depth, begin + kStep);
      for (std::int64_t c = 0; c < layout.width; ++c) {
        const std::int64_t feature = feature_of(layout, packed, p * layout.width + c);
        if (feature < first || feature >= last) continue;
        Element* row = plain + (feature - first) * depth;
        for (std::int64_t k = begin; k < end; ++k) visit(panel, c, k, row[k]);
      }
    }
  });
}

// Copies to the panels or from them.
template <class Element, bool to_panels>
void copy_elements(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                   int threads) {
  constexpr std::int64_t kInputs = 4 / sizeof(Element);
  const LinearLayout layout = check_packed(packed);
  const std::int64_t width = layout.width;
  if constexpr (kInputs == 1) {
    if (const int bytes = stored_bytes(layout, DType::f32, packed.bytes); bytes < 4) {
      const ShortWeights found{bytes};
      for_each_element<Element>(
          weight, packed, first, threads,
          [found](Element* panel, std::int64_t column, std::int64_t k, Element& plain) {
            if (to_panels) {
              found.put(panel, column, k, plain);
            } else {
              plain = found.get(panel, column, k);
            }
          });
      return;
    }
  }
  for_each_element<Element>(
      weight, packed, first, threads,
      [width](Element* panel, std::int64_t column, std::int64_t k, Element& plain) {
        Element& found = panel[(k / kInputs * width + column) * kInputs + k % kInputs];
        (to_panels ? found : plain) = to_panels ? plain : found;
      });
}

template <bool to_panels>
void copy_weights(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                  int threads) {
  if (packed.data.dtype == DType::bf16) {
    copy_elements<std::uint16_t, to_panels>(weight, packed, first, threads);
  } else {
    copy_elements<std::uint32_t, to_panels>(weight, packed, first, threads);
  }
}

// Rows of a work item: cut where it would keep more of them than the cache holds, and where there
// are too few panels to keep all threads busy. Any cut gives the same bits.
std::int64_t rows_of_item(std::int64_t rows, const LinearTask& task, std::int64_t panels,
                          const LinearLayout& layout, int threads) {
  const std::int64_t row_bytes =
      layout.row_bytes * std::clamp<std::int64_t>(task.k, 1, layout.kept);
  const std::int64_t fit = kMostBytes / row_bytes / layout.rows * layout.rows;
  const std::int64_t most = std::clamp(fit, layout.rows, kMostRows);
  std::int64_t best = 0;
  double best_balance = 0;
  for (std::int64_t chunk = ceil_div(rows, ceil_div(rows, most));; chunk = ceil_div(chunk, 2)) {
    const std::int64_t grain = std::min(rows, ceil_div(chunk, layout.rows) * layout.rows);
    const std::int64_t waves = ceil_div(ceil_div(rows, grain) * panels, threads);
    const double balance =
        static_cast<double>(rows * panels) / static_cast<double>(waves * threads * grain);
    if (balance > best_balance + 0.01) {
      best_balance = balance;
      best = grain;
    }
    if (best_balance > kEnoughBalance || chunk < 2 * layout.rows) return best;
  }
}

}  // namespace

void check_linear_call(const TensorView& x, std::int64_t k, std::int64_t n, bool pair,
                       const LinearEpilogue& after, const TensorView& out) {
  require_dims("x", x, 2);
  require_dtype("x", x, DType::f32);
  require_dense_last("x", x);
  require_size("x", x, 1, k);
  const std::int64_t columns = pair ? n / 2 : n;
  const struct {
    const char* name;
    const TensorView* view;
  } outputs[] = {{"out", &out}, {"residual", after.residual}};
  for (const auto& [name, view] : outputs) {
    if (view == nullptr) continue;
    require_dims(name, *view, 2);
    require_dtype(name, *view, DType::f32);
    require_dense_last(name, *view);
    require_size(name, *view, 0, out.shape[0]);
    require_size(name, *view, 1, columns);
  }
  if (after.bias != nullptr) vector_of<float>("bias", *after.bias, DType::f32, n);
  if (after.row_index == nullptr) {
    require_size("out", out, 0, x.shape[0]);
    return;
  }
  const auto* index =
      vector_of<std::int64_t>("row_index", *after.row_index, DType::i64, out.shape[0]);
  for (std::int64_t i = 0; i < out.shape[0]; ++i) {
    FASTSI_CHECK(0 <= index[i] && index[i] < x.shape[0], "row_index: entry ", i, " is ", index[i],
                 ", x has ", x.shape[0], " rows");
  }
}

std::array<std::int64_t, 3> linear_packed_shape(std::int64_t n, std::int64_t k, bool pair,
                                                DType dtype, int bytes) {
  return shape_of(kernel_of("weights", dtype).layout(), n, k, pair, dtype, bytes);
}

int linear_bytes(const TensorView& weight, int threads) {
  require_dims("weight", weight, 2);
  require_dtype("weight", weight, DType::f32);
  require_contiguous("weight", weight);
  const std::int64_t rows = weight.shape[0], depth = weight.shape[1];
  const auto* values = static_cast<const std::uint32_t*>(weight.data);
  if (static_cast<double>(weight.numel()) < kSerialElements) threads = 1;
  std::atomic<std::uint32_t> all{0};
  parallel_for(rows, threads, [&](std::int64_t row) {
    std::uint32_t found = 0;
    for (std::int64_t k = 0; k < depth; ++k) found |= values[row * depth + k];
    all.fetch_or(found, std::memory_order_relaxed);
  });
  return (all & 0xFFu) != 0 ? 4 : (all & 0xFF00u) != 0 ? 3 : 2;
}

void linear_pack(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                 int threads) {
  copy_weights<true>(weight, packed, first, threads);
}

void linear_unpack(const LinearWeights& packed, std::int64_t first, const TensorView& weight,
                   int threads) {
  copy_weights<false>(weight, packed, first, threads);
}

void linear(const TensorView& x, const LinearWeights& packed, const LinearEpilogue& after,
            const TensorView& out, int threads) {
  const LinearLayout layout = check_packed(packed);
  check_linear_call(x, packed.k, packed.n, packed.pair, after, out);
  const std::int64_t rows = out.shape[0], depth = x.shape[1], panels = packed.data.shape[0];
  if (rows == 0 || panels == 0) return;
  const auto floats = [](const TensorView* view) {
    return view == nullptr ? nullptr : static_cast<const float*>(view->data);
  };
  const LinearTask task{floats(&x),
                        after.row_index == nullptr
                            ? nullptr
                            : static_cast<const std::int64_t*>(after.row_index->data),
                        packed.data.data,
                        floats(after.bias),
                        floats(after.residual),
                        static_cast<float*>(out.data),
                        x.stride[0],
                        after.residual == nullptr ? 0 : after.residual->stride[0],
                        out.stride[0],
                        packed.data.shape[1] * layout.width,
                        depth,
                        packed.n,
                        after.activation,
                        packed.pair,
                        packed.bytes};
  if (static_cast<double>(rows) * static_cast<double>(depth * packed.n) < kSerialWork) threads = 1;
  const std::int64_t grain = rows_of_item(rows, task, panels, layout, threads);
  const std::int64_t most = std::min(panels, kMostPanels);
  const LinearKernel& kernel = kernel_of("weights", packed.data.dtype);
  const std::size_t bytes = kernel.scratch(task, grain, most);
  const std::uint64_t call = ++calls;
  // Panels lie one after the other in memory and ask for the next one, so threads keep to ranges.
  parallel_ranges(
      ceil_div(rows, grain) * panels, most, threads, [&](std::int64_t i, std::int64_t end) {
        void* scratch = thread_scratch(bytes);
        while (i < end) {
          const std::int64_t row = i / panels * grain, panel = i % panels;
          const std::int64_t count = std::min(end - i, panels - panel);
          const LinearBlock block{row, std::min(rows, row + grain), panel, panel + count, most};
          if (prepared.call != call || prepared.row != row) {
            kernel.prepare(task, row, block.row_last - row, most, scratch);
            prepared = {call, row};
          }
          kernel.run(task, block, scratch);
          i += count;
        }
      });
}

}  // namespace fastsi
