// Random calls of kv_write and segment_attention with int8 caches; see fuzz_ops.cc.
#include "fuzz.h"

namespace fuzz {
namespace {

// Blocks of the largest power of two that divides `dim`, at most 64, times their Hadamard matrix.
void rotate(std::vector<double>& x) {
  const auto dim = static_cast<std::int64_t>(x.size());
  const std::int64_t side = std::min<std::int64_t>(64, dim & -dim);
  for (std::int64_t first = 0; first < dim; first += side) {
    for (std::int64_t stride = side / 2; stride > 0; stride /= 2) {
      for (std::int64_t i = first; i < first + side; ++i) {
        if ((i - first) & stride) continue;
        const double a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
  }
  for (double& value : x) value /= std::sqrt(static_cast<double>(side));
}

struct Int8Cache {
  Tensor k, v, k_scale, v_scale;

  explicit Int8Cache(std::vector<std::int64_t> shape)
      : k(DType::i8, shape),
        v(DType::i8, shape),
        k_scale(DType::f32, {shape[0], shape[1], shape[2]}),
        v_scale(DType::f32, {shape[0], shape[1], shape[2]}) {}

  fastsi::KvCache view() const { return {k.view, v.view, &k_scale.view, &v_scale.view}; }
};

std::vector<double> head_at(const Tensor& ints, const Tensor& scale, std::int64_t token) {
  const std::int64_t dim = ints.view.shape[3];
  std::vector<double> head;
  for (std::int64_t d = 0; d < dim; ++d) {
    const auto* at = static_cast<const std::int8_t*>(ints.view.data) + token * dim;
    head.push_back(at[d] * scale.get(token));
  }
  return head;
}

}  // namespace

void kv_write_int8() {
  const std::int64_t pages = pick(1, 6), heads = pick(1, 3), size = pick(1, 20), dim = pick(1, 200);
  const std::int64_t rows = pick(0, pages * size);
  Tensor k(DType::f32, {rows, heads, dim}), v(DType::f32, {rows, heads, dim});
  Tensor slots(DType::i64, {rows});
  Int8Cache cache({pages, heads, size, dim});
  k.fill_normal(std::pow(10.0, static_cast<double>(pick(-9, 9))));
  v.fill_normal();
  for (std::int64_t r = 0; r < rows; ++r) slots.as<std::int64_t>()[r] = pick(0, 4) ? r : -1;
  fastsi::kv_write(k.view, v.view, cache.view(), slots.view, 2);
  for (std::int64_t r = 0; r < rows; ++r) {
    if (slots.as<std::int64_t>()[r] < 0) continue;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t token = (r / size * heads + h) * size + r % size;
      for (const bool key : {true, false}) {
        const Tensor& from = key ? k : v;
        std::vector<double> want;
        for (std::int64_t d = 0; d < dim; ++d) want.push_back(from.get((r * heads + h) * dim + d));
        if (key) rotate(want);
        const Tensor& scale = key ? cache.k_scale : cache.v_scale;
        const std::vector<double> got = head_at(key ? cache.k : cache.v, scale, token);
        for (std::int64_t d = 0; d < dim; ++d) {
          // Half a step, and the float32 arithmetic of the rotation.
          require(std::abs(got[d] - want[d]) <= scale.get(token) * 0.5005, "kv_write: int8");
        }
      }
    }
  }
}

// Two spans, one shared and one per row, against float32 caches of the same numbers.
void attention_int8() {
  const std::int64_t rows = pick(1, 12), kv = pick(1, 3), heads = kv * pick(1, 9);
  const std::int64_t dim = pick(0, 7) ? pick(1, 130) : pick(131, 256), size = pick(1, 40);
  const std::int64_t shared = pick(0, 200), own = pick(0, 70);
  std::vector<std::int32_t> begin{0}, end{static_cast<std::int32_t>(rows)}, ids, indptr{0};
  std::vector<std::int32_t> length{static_cast<std::int32_t>(shared)}, start{0}, causal{0},
      per_path{0}, offset{static_cast<std::int32_t>(pick(0, size - 1))}, pos;
  for (std::int64_t r = 0; r < rows; ++r) {
    begin.push_back(static_cast<std::int32_t>(r));
    end.push_back(static_cast<std::int32_t>(r + 1));
    length.push_back(static_cast<std::int32_t>(own));
    start.push_back(static_cast<std::int32_t>(shared));
    causal.push_back(1);
    per_path.push_back(1);
    offset.push_back(0);
    pos.push_back(static_cast<std::int32_t>(shared + pick(0, own)));
  }
  std::int32_t pages = 0;
  for (std::size_t s = 0; s < length.size(); ++s) {
    const auto count = static_cast<std::int32_t>((offset[s] + length[s] + size - 1) / size);
    for (std::int32_t i = 0; i < count; ++i) ids.push_back(pages++);
    indptr.push_back(pages);
  }
  const std::int64_t tokens = pages * size;
  Tensor q(DType::f32, {rows, heads, dim}), out(DType::f32, {rows, heads, dim});
  Tensor expected(DType::f32, {rows, heads, dim});
  Tensor lse(DType::f32, {rows, heads}), expected_lse(DType::f32, {rows, heads});
  Tensor k(DType::f32, {tokens, kv, dim}), v(DType::f32, {tokens, kv, dim});
  Tensor slots(DType::i64, {tokens});
  for (Tensor* tensor : {&q, &k, &v}) tensor->fill_normal();
  for (std::int64_t t = 0; t < tokens; ++t) slots.as<std::int64_t>()[t] = t;
  Int8Cache cache({pages, kv, size, dim});
  fastsi::kv_write(k.view, v.view, cache.view(), slots.view, 2);
  Tensor k_float(DType::f32, {pages, kv, size, dim}), v_float(DType::f32, {pages, kv, size, dim});
  for (std::int64_t token = 0; token < tokens * kv; ++token) {
    std::vector<double> key = head_at(cache.k, cache.k_scale, token);
    const std::vector<double> value = head_at(cache.v, cache.v_scale, token);
    rotate(key);
    for (std::int64_t d = 0; d < dim; ++d) {
      k_float.as<float>()[token * dim + d] = static_cast<float>(key[d]);
      v_float.as<float>()[token * dim + d] = static_cast<float>(value[d]);
    }
  }
  fastsi::AttentionOptions options;
  options.scale = 1 / std::sqrt(static_cast<double>(dim));
  options.softcap = pick(0, 1) ? 0.0 : 5.0;
  options.window = pick(0, 1) ? 0 : pick(1, 200);
  const Tensor t[] = {ints(indptr), ints(ids), ints(offset), ints(length),   ints(start),
                      ints(begin),  ints(end), ints(causal), ints(per_path), ints(pos)};
  const fastsi::SegmentPlan plan(t[0].view, t[1].view, t[2].view, t[3].view, t[4].view, t[5].view,
                                 t[6].view, t[7].view, t[8].view, t[9].view, size);
  fastsi::segment_attention(q.view, {k_float.view, v_float.view}, plan, options, expected.view,
                            expected_lse.view, 2);
  fastsi::segment_attention(q.view, cache.view(), plan, options, out.view, lse.view,
                            static_cast<int>(pick(1, 3)));
  // Queries and weights of shared spans have 7 bits: scores of standard deviation 1 are off by a
  // few hundredths, and so are outputs in units of the values.
  for (std::int64_t i = 0; i < rows * heads; ++i) {
    const double want = expected_lse.get(i), got = lse.get(i);
    require(want == got || std::abs(want - got) < 0.2, "attention int8: lse");
  }
  for (std::int64_t i = 0; i < rows * heads * dim; ++i) {
    require(std::abs(out.get(i) - expected.get(i)) < 0.2, "attention int8: out");
  }
}

}  // namespace fuzz
