#include <algorithm>

#include "fastsi/isa.h"
#include "fastsi/parallel.h"
#include "kernels.h"

namespace fastsi {
namespace {

constexpr double kSerialWork = 4e5;      // multiply-adds below which waking threads costs more
constexpr std::int64_t kMostRows = 256;  // rows of a work item: their input stays in cache
constexpr double kEnoughBalance = 0.95;  // share of the threads' time that items should fill

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Packed columns of n output features: a pair's vectors of first and second weights alternate, so
// both halves are filled up to a vector.
std::int64_t packed_columns(const LinearLayout& layout, std::int64_t n, bool pair) {
  return pair ? 2 * ceil_div(n / 2, layout.lanes) * layout.lanes : n;
}

// The output feature in a packed column, or a number >= n where the column is padding.
std::int64_t feature_of(const LinearLayout& layout, const LinearWeights& packed,
                        std::int64_t column) {
  if (!packed.pair) return column;
  const std::int64_t half = packed.n / 2, group = column / layout.lanes;
  const std::int64_t feature = group / 2 * layout.lanes + column % layout.lanes;
  return feature < half ? feature + group % 2 * half : packed.n;
}

LinearLayout check_packed(const LinearWeights& packed) {
  const LinearLayout layout = kernels().linear_fp32_layout();
  const TensorView& data = packed.data;
  require_dims("weights", data, 3);
  require_dtype("weights", data, DType::f32);
  require_contiguous("weights", data);
  FASTSI_CHECK(data.shape[2] == layout.width, "weights: packed in panels of ", data.shape[2],
               " columns, instruction set ", name_of(isa()), " reads panels of ", layout.width,
               "; pack them again");
  FASTSI_CHECK(packed.n >= 0 && !(packed.pair && packed.n % 2), "weights: ", packed.n,
               " output features", packed.pair ? ", a pair must have an even number" : "");
  require_size("weights", data, 0,
               ceil_div(packed_columns(layout, packed.n, packed.pair), layout.width));
  return layout;
}

void check_plain(const TensorView& weight, const LinearWeights& packed, std::int64_t first) {
  require_dims("weight", weight, 2);
  require_dtype("weight", weight, DType::f32);
  require_contiguous("weight", weight);
  require_size("weight", weight, 1, packed.data.shape[1]);
  FASTSI_CHECK(first >= 0 && first + weight.shape[0] <= packed.n, "weight: features ", first,
               " to ", first + weight.shape[0], " of ", packed.n);
}

// Calls visit(element of the packed panels, element of the plain weight) for every element of the
// plain weight, panel by panel.
template <class Visit>
void for_each_weight(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                     int threads, Visit visit) {
  const LinearLayout layout = check_packed(packed);
  check_plain(weight, packed, first);
  const std::int64_t depth = weight.shape[1], last = first + weight.shape[0];
  auto* plain = static_cast<float*>(weight.data);
  auto* panels = static_cast<float*>(packed.data.data);
  if (static_cast<double>(weight.numel()) < kSerialElements) threads = 1;
  parallel_for(packed.data.shape[0], threads, [&](std::int64_t p) {
    constexpr std::int64_t kStep = 16;  // one cache line of every feature at a time
    float* panel = panels + p * depth * layout.width;
    for (std::int64_t begin = 0; begin < depth; begin += kStep) {
      const std::int64_t end = std::min(depth, begin + kStep);
      for (std::int64_t c = 0; c < layout.width; ++c) {
        const std::int64_t feature = feature_of(layout, packed, p * layout.width + c);
        if (feature < first || feature >= last) continue;
        float* row = plain + (feature - first) * depth;
        for (std::int64_t k = begin; k < end; ++k) visit(panel[k * layout.width + c], row[k]);
      }
    }
  });
}

// Rows per work item of one panel each. Any value gives the same bits; fewer rows read the panel
// again, more may leave a thread idle.
std::int64_t rows_per_item(std::int64_t rows, std::int64_t panels, const LinearLayout& layout,
                           int threads) {
  std::int64_t chunk = ceil_div(rows, ceil_div(rows, kMostRows));
  const auto balance = [&] {
    const std::int64_t items = ceil_div(rows, chunk) * panels;
    return static_cast<double>(items) / static_cast<double>(ceil_div(items, threads) * threads);
  };
  while (chunk >= 4 * layout.rows && balance() < kEnoughBalance) chunk = ceil_div(chunk, 2);
  return ceil_div(chunk, layout.rows) * layout.rows;
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

std::int64_t linear_panel_width() { return kernels().linear_fp32_layout().width; }

std::int64_t linear_panels(std::int64_t n, bool pair) {
  const LinearLayout layout = kernels().linear_fp32_layout();
  return ceil_div(packed_columns(layout, n, pair), layout.width);
}

void linear_pack(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                 int threads) {
  for_each_weight(weight, packed, first, threads, [](float& to, float& from) { to = from; });
}

void linear_unpack(const LinearWeights& packed, std::int64_t first, const TensorView& weight,
                   int threads) {
  for_each_weight(weight, packed, first, threads, [](float& from, float& to) { to = from; });
}

void linear(const TensorView& x, const LinearWeights& packed, const LinearEpilogue& after,
            const TensorView& out, int threads) {
  const LinearLayout layout = check_packed(packed);
  check_linear_call(x, packed.data.shape[1], packed.n, packed.pair, after, out);
  const std::int64_t rows = out.shape[0], depth = x.shape[1], panels = packed.data.shape[0];
  if (rows == 0 || panels == 0) return;
  const auto floats = [](const TensorView* view) {
    return view == nullptr ? nullptr : static_cast<const float*>(view->data);
  };
  const LinearTask task{floats(&x),
                        after.row_index == nullptr
                            ? nullptr
                            : static_cast<const std::int64_t*>(after.row_index->data),
                        static_cast<const float*>(packed.data.data),
                        floats(after.bias),
                        floats(after.residual),
                        static_cast<float*>(out.data),
                        x.stride[0],
                        after.residual == nullptr ? 0 : after.residual->stride[0],
                        out.stride[0],
                        depth,
                        packed.n,
                        after.activation,
                        packed.pair};
  if (static_cast<double>(rows) * static_cast<double>(depth * packed.n) < kSerialWork) threads = 1;
  const std::int64_t chunk = rows_per_item(rows, panels, layout, threads);
  const Kernels& kernel = kernels();
  parallel_for(ceil_div(rows, chunk) * panels, threads, [&](std::int64_t item) {
    const std::int64_t first = item / panels * chunk, panel = item % panels;
    const LinearBlock block{first, std::min(rows, first + chunk), panel, panel + 1};
    kernel.linear_fp32(task, block, thread_scratch(kernel.linear_fp32_scratch(task, block)));
  });
}

}  // namespace fastsi
