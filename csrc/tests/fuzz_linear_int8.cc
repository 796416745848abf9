// Random calls of linear_int8_pack and linear_int8; see fuzz_ops.cc.
#include "fuzz.h"

namespace fuzz {
namespace {

double activated(double x, fastsi::Activation kind) {
  switch (kind) {
    case fastsi::Activation::silu:
      return x / (1 + std::exp(-x));
    case fastsi::Activation::gelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case fastsi::Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(0.7978845608 * (x + 0.044715 * x * x * x)));
    default:
      return x;
  }
}

}  // namespace

void linear_int8() {
  const std::int64_t rows = pick(0, 70), sources = rows + pick(0, 3), k = pick(1, 200);
  const bool pair = pick(0, 1), gather = sources > 0 && pick(0, 1);
  const std::int64_t columns = pick(1, 70), n = pair ? 2 * columns : columns;
  const std::int64_t depth = (k + 63) / 64 * 64, panels = fastsi::linear_int8_panels(n, pair);
  Tensor x(DType::f32, {gather ? sources : rows, k}), weight(DType::f32, {n, k});
  Tensor bias(DType::f32, {n}), residual(DType::f32, {rows, columns});
  Tensor out(DType::f32, {rows, columns}), index(DType::i64, {rows});
  const bool step_scales = fastsi::linear_int8_step_scales();
  const std::int64_t parts = panels * 16 * (step_scales ? depth / 64 : 1);
  Tensor data(DType::u8, {panels * 16 * depth}), scale(DType::f32, {parts});
  Tensor sum(DType::i32, {parts});
  for (Tensor* tensor : {&x, &weight, &bias, &residual}) tensor->fill_normal();
  for (std::int64_t r = 0; gather && r < rows; ++r) {
    index.as<std::int64_t>()[r] = pick(0, sources - 1);
  }
  const fastsi::LinearInt8Weights packed{data.view, scale.view, sum.view, n, k, pair, step_scales};
  fastsi::linear_int8_pack(weight.view, packed, 0, static_cast<int>(pick(1, 3)));
  fastsi::LinearEpilogue after;
  const bool biased = pick(0, 1), added = pick(0, 1);
  if (biased) after.bias = &bias.view;
  if (added) after.residual = &residual.view;
  if (gather) after.row_index = &index.view;
  after.activation = static_cast<fastsi::Activation>(pick(0, fastsi::kNumActivations - 1));
  if (gather && rows > 0 && pick(0, 4) == 0) {
    index.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? sources : -1;
    try {
      fastsi::linear_int8(x.view, packed, after, out.view, 2);
    } catch (const std::invalid_argument&) {
      return;
    }
    die("linear_int8: a bad row was accepted");
  }
  fastsi::linear_int8(x.view, packed, after, out.view, static_cast<int>(pick(1, 3)));
  for (std::int64_t check = 0; check < std::min<std::int64_t>(rows * columns, 20); ++check) {
    const std::int64_t r = pick(0, rows - 1), c = pick(0, columns - 1);
    const std::int64_t source = gather ? index.as<std::int64_t>()[r] : r;
    double sums[2] = {}, norms[2] = {}, length = 0;
    for (int half = 0; half <= (pair ? 1 : 0); ++half) {
      const std::int64_t feature = c + half * columns;
      for (std::int64_t i = 0; i < k; ++i) {
        sums[half] += x.get(source * k + i) * weight.get(feature * k + i);
        norms[half] += weight.get(feature * k + i) * weight.get(feature * k + i);
      }
      if (biased) sums[half] += bias.get(feature);
    }
    for (std::int64_t i = 0; i < k; ++i) length += x.get(source * k + i) * x.get(source * k + i);
    double expected = activated(sums[0], after.activation) * (pair ? sums[1] : 1.0);
    if (added) expected += residual.get(r * columns + c);
    // Two roundings to 1 / 126 of the largest value or less, which is at most 8 times the usual
    // one.
    const auto slack = [&](int half) { return 0.05 * std::sqrt(length * norms[half]) + 1e-4; };
    double allowed = 1.2 * slack(0);  // the activations' slopes are below 1.2
    if (pair) {
      allowed = allowed * (std::abs(sums[1]) + slack(1)) + std::abs(sums[0]) * slack(1);
    }
    require(std::abs(out.get(r * columns + c) - expected) <= allowed, "linear_int8: out");
  }
}

}  // namespace fuzz
