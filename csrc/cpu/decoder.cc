#include "fastsi/decoder.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "fastsi/parallel.h"

namespace fastsi {
namespace {

// Null: no residual; row r of x is row r of out.
struct Around {
  const TensorView *residual = nullptr, *row_index = nullptr;
  Activation activation = Activation::none;
};

void product(const TensorView& x, const DecoderLinear& layer, const Around& around,
             const TensorView& out, int threads) {
  const TensorView* bias = layer.bias ? &*layer.bias : nullptr;
  const LinearEpilogue after{bias, around.residual, around.row_index, around.activation};
  if (const auto* exact = std::get_if<LinearWeights>(&layer.weights)) {
    linear(x, *exact, after, out, threads);
  } else {
    linear_int8(x, std::get<LinearInt8Weights>(layer.weights), after, out, threads);
  }
}

// Heads [first, first + count) of rows [R, heads * dim], as [R, count, dim].
TensorView heads_of(const TensorView& rows, std::int64_t first, std::int64_t count,
                    std::int64_t dim) {
  TensorView view = rows;
  view.data = static_cast<float*>(rows.data) + first * dim;
  view.dims = 3;
  view.shape[1] = count;
  view.shape[2] = dim;
  view.stride[1] = dim;
  view.stride[2] = 1;
  return view;
}

void check_scratch(const char* name, const TensorView& view, std::int64_t rows) {
  require_dims(name, view, 2);
  require_dtype(name, view, DType::f32);
  require_size(name, view, 0, rows);
  require_contiguous(name, view);
}

TensorView first_rows(TensorView view, std::int64_t rows) {
  view.shape[0] = rows;
  return view;
}

// Whether the kept rows are all rows, in order; throws where one is none.
bool keeps_all(const std::int64_t* keep, std::int64_t count, std::int64_t rows) {
  bool all = count == rows;
  for (std::int64_t i = 0; i < count; ++i) {
    FASTSI_CHECK(0 <= keep[i] && keep[i] < rows, "keep: entry ", i, " is ", keep[i], ", there are ",
                 rows, " rows");
    all = all && keep[i] == i;
  }
  return all;
}

// Rows of a table [N, C], float32 or bfloat16, that become the rows of `to`.
struct Lookup {
  const TensorView& table;
  const std::int64_t* rows;
  const TensorView& to;

  Lookup(const char* name, const TensorView& from, const char* index_name,
         const std::int64_t* index, const TensorView& out)
      : table(from), rows(index), to(out) {
    require_dims(name, from, 2);
    require_size(name, from, 1, out.shape[1]);
    require_dense_last(name, from);
    FASTSI_CHECK(from.dtype == DType::f32 || from.dtype == DType::bf16, name, ": is ",
                 name_of(from.dtype), ", must be float32 or bfloat16");
    for (std::int64_t i = 0; i < out.shape[0]; ++i) {
      FASTSI_CHECK(0 <= index[i] && index[i] < from.shape[0], index_name, ": entry ", i, " is ",
                   index[i], ", ", name, " has ", from.shape[0], " rows");
    }
  }

  void run(int threads) const {
    if (static_cast<double>(to.numel()) < serial_elements()) threads = 1;
    constexpr std::int64_t kRows = 16;
    parallel_for((to.shape[0] + kRows - 1) / kRows, threads, [&](std::int64_t task) {
      const std::int64_t last = std::min(to.shape[0], (task + 1) * kRows);
      for (std::int64_t i = task * kRows; i < last; ++i) copy(i);
    });
  }

 private:
  void copy(std::int64_t i) const {
    const std::int64_t columns = to.shape[1], from = rows[i] * table.stride[0];
    float* target = static_cast<float*>(to.data) + i * columns;
    if (table.dtype == DType::f32) {
      std::memcpy(target, static_cast<const float*>(table.data) + from,
                  static_cast<std::size_t>(columns) * sizeof(float));
      return;
    }
    const auto* source = static_cast<const std::uint16_t*>(table.data) + from;
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::uint32_t bits = std::uint32_t{source[c]} << 16;  // a bfloat16 is half a float
      std::memcpy(target + c, &bits, sizeof bits);
    }
  }
};

struct Heads {
  TensorView q, k, v, out;
};

// The views of one layer's projections; every element of theirs lies inside the scratch.
Heads split_heads(const DecoderScratch& scratch, const TensorView& k_cache) {
  require_dims("k_cache", k_cache, 4);
  const std::int64_t kv_heads = k_cache.shape[1], dim = k_cache.shape[3];
  const std::int64_t columns = scratch.qkv.shape[1];
  FASTSI_CHECK(kv_heads > 0 && dim > 0 && columns % dim == 0 && columns / dim > 2 * kv_heads,
               "qkv: has ", columns, " columns, must hold queries, keys and values of heads of ",
               dim, " elements, ", kv_heads, " for keys");
  const std::int64_t q_heads = columns / dim - 2 * kv_heads;
  require_size("attended", scratch.attended, 1, q_heads * dim);
  return {heads_of(scratch.qkv, 0, q_heads, dim), heads_of(scratch.qkv, q_heads, kv_heads, dim),
          heads_of(scratch.qkv, q_heads + kv_heads, kv_heads, dim),
          heads_of(scratch.attended, 0, q_heads, dim)};
}

}  // namespace

void Decoder::forward(const DecoderStep& step, const SegmentPlan& plan,
                      const DecoderScratch& scratch, const TensorView& logits, int threads) const {
  const std::size_t layers = layers_.size();
  FASTSI_CHECK(step.k_caches.size() == layers && step.v_caches.size() == layers,
               "k_caches: ", step.k_caches.size(), ", v_caches: ", step.v_caches.size(),
               ", layers: ", layers);
  const std::size_t scales = layers > 0 && step.k_caches[0].dtype == DType::i8 ? layers : 0;
  FASTSI_CHECK(step.k_scales.size() == scales && step.v_scales.size() == scales,
               "k_scales: ", step.k_scales.size(), ", v_scales: ", step.v_scales.size(),
               ", must be ", scales);
  const TensorView& all = scratch.hidden;
  require_dims("hidden", all, 2);
  require_dims("keep", step.keep, 1);
  const std::int64_t rows = all.shape[0], count = step.keep.shape[0];
  const auto* keep = vector_of<std::int64_t>("keep", step.keep, DType::i64, count);
  const auto* positions = vector_of<std::int64_t>("positions", step.positions, DType::i64, rows);
  for (const auto& [name, view] : {std::pair{"hidden", &all},
                                   {"cos", &scratch.cos},
                                   {"sin", &scratch.sin},
                                   {"normed", &scratch.normed},
                                   {"qkv", &scratch.qkv},
                                   {"attended", &scratch.attended},
                                   {"lse", &scratch.lse},
                                   {"gated", &scratch.gated}}) {
    check_scratch(name, *view, rows);
  }
  check_scratch("kept", scratch.kept, count);
  require_size("kept", scratch.kept, 1, all.shape[1]);
  FASTSI_CHECK(count <= rows, "keep: has ", count, " entries, there are ", rows, " rows");
  const bool every = keeps_all(keep, count, rows);
  require_dims("logits", logits, 2);
  require_size("logits", logits, 0, count);
  std::vector<Lookup> lookups;
  lookups.emplace_back("tables.cos", step.tables.cos, "positions", positions, scratch.cos);
  lookups.emplace_back("tables.sin", step.tables.sin, "positions", positions, scratch.sin);
  if (step.ids) {
    FASTSI_CHECK(embedding_, "ids: this decoder has no embedding");
    const auto* ids = vector_of<std::int64_t>("ids", *step.ids, DType::i64, rows);
    lookups.emplace_back("embedding", *embedding_, "ids", ids, all);
  }
  const auto attend = [&](std::size_t i) {
    const DecoderLayer& layer = layers_[i];
    KvCache cache{step.k_caches[i], step.v_caches[i]};
    if (scales > 0) cache.k_scale = &step.k_scales[i], cache.v_scale = &step.v_scales[i];
    const Heads heads = split_heads(scratch, cache.k);
    RopeNorms norms{nullptr, nullptr, 0};
    if (layer.head_norms) {
      norms = {&layer.head_norms->q, &layer.head_norms->k, layer.head_norms->eps};
    }
    rms_norm(all, layer.before.weight, layer.before.eps, nullptr, scratch.normed, threads);
    product(scratch.normed, layer.qkv, {}, scratch.qkv, threads);
    rope_kv_write(heads.q, heads.k, heads.v, {scratch.cos, scratch.sin}, norms, cache, step.slots,
                  threads);
    segment_attention(heads.q, cache, plan, layer.attention, heads.out, scratch.lse, threads);
  };
  // What follows attention, for all rows or for those in `index`, whose residual `hidden` holds.
  const auto finish = [&](const DecoderLayer& layer, const TensorView& hidden,
                          const TensorView* index) {
    const TensorView normed = first_rows(scratch.normed, hidden.shape[0]);
    const TensorView gated = first_rows(scratch.gated, hidden.shape[0]);
    product(scratch.attended, layer.output, {&hidden, index}, hidden, threads);
    rms_norm(hidden, layer.between.weight, layer.between.eps, nullptr, normed, threads);
    product(normed, layer.gate_up, {nullptr, nullptr, layer.activation}, gated, threads);
    product(gated, layer.down, {&hidden}, hidden, threads);
  };
  with_team(threads, [&] {
    for (const Lookup& lookup : lookups) lookup.run(threads);
    for (std::size_t i = 0; i < layers; ++i) {
      attend(i);
      if (i + 1 < layers) finish(layers_[i], all, nullptr);
    }
    // The last layer's rows without logits were wanted for their keys and values alone.
    const TensorView& hidden = every ? all : scratch.kept;
    if (!every) Lookup("hidden", all, "keep", keep, scratch.kept).run(threads);
    if (layers > 0) finish(layers_.back(), hidden, every ? nullptr : &step.keep);
    const TensorView normed = first_rows(scratch.normed, count);
    rms_norm(hidden, norm_.weight, norm_.eps, nullptr, normed, threads);
    product(normed, head_, {}, logits, threads);
  });
}

}  // namespace fastsi
