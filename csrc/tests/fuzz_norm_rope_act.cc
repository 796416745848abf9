// Random calls of rms_norm, rope_kv_write and act_mul; see fuzz_ops.cc.
#include "fuzz.h"

namespace fuzz {

void norm_and_act() {
  const DType dtype = random_float();
  const std::int64_t rows = pick(0, 20), size = pick(1, 200);
  Tensor x(dtype, {rows, size}), weight(dtype, {size}), residual(dtype, {rows, size});
  Tensor out(dtype, {rows, size}), gated(dtype, {rows, size});
  for (Tensor* tensor : {&x, &weight, &residual}) tensor->fill_normal();
  const auto activation = static_cast<fastsi::Activation>(pick(1, 3));
  fastsi::act_mul(x.view, residual.view, activation, gated.view, 2);
  for (std::int64_t i = 0; i < rows * size; ++i) {
    const double g = x.get(i), u = residual.get(i);
    const double gate = activation == fastsi::Activation::silu ? 1 / (1 + std::exp(-g))
                        : activation == fastsi::Activation::gelu
                            ? std::erfc(-g / std::sqrt(2.0)) / 2
                            : (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) / 2;
    require(std::abs(gated.get(i) - g * gate * u) < tolerance(dtype), "act_mul");
  }
  std::vector<double> sums;
  const bool add = pick(0, 1) == 1;
  for (std::int64_t i = 0; i < rows * size; ++i)
    sums.push_back(x.get(i) + (add ? residual.get(i) : 0));
  fastsi::rms_norm(x.view, weight.view, 1e-5, add ? &residual.view : nullptr, out.view, 2);
  for (std::int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (std::int64_t i = 0; i < size; ++i) squares += sums[r * size + i] * sums[r * size + i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(size) + 1e-5);
    for (std::int64_t i = 0; i < size; ++i) {
      const double want = sums[r * size + i] * scale * weight.get(i);
      require(std::abs(out.get(r * size + i) - want) < tolerance(dtype), "rms_norm");
      if (add) {
        const double kept = residual.get(r * size + i);
        require(std::abs(kept - sums[r * size + i]) < tolerance(dtype), "rms_norm: residual");
      }
    }
  }
}

void rope() {
  const DType dtype = random_float(), stored = random_cache(dtype);
  const std::int64_t heads = pick(1, 3), dim = pick(2, 70), size = pick(1, 9), pages = pick(1, 4);
  const std::int64_t rows = pick(0, pages * size), rotary = 2 * pick(0, dim / 2);
  Tensor q(dtype, {rows, 2 * heads, dim}), k(dtype, {rows, heads, dim}),
      v(dtype, {rows, heads, dim});
  Tensor cos(dtype, {rows, rotary}), sin(dtype, {rows, rotary}), norm(dtype, {dim});
  Tensor k_cache(stored, {pages, heads, size, dim}), v_cache(stored, {pages, heads, size, dim});
  Tensor slots(DType::i64, {rows});
  for (Tensor* tensor : {&q, &k, &v, &cos, &sin, &norm}) tensor->fill_normal();
  for (std::int64_t r = 0; r < rows; ++r) slots.as<std::int64_t>()[r] = pick(0, 4) ? r : -1;
  const bool broken = rows > 0 && pick(0, 3) == 0;
  if (broken) slots.as<std::int64_t>()[pick(0, rows - 1)] = pages * size;
  const TensorView* keys_norm = pick(0, 1) ? &norm.view : nullptr;
  try {
    fastsi::rope_kv_write(q.view, k.view, v.view, {cos.view, sin.view}, {nullptr, keys_norm, 1e-5},
                          {k_cache.view, v_cache.view}, slots.view, 2);
    require(!broken, "rope: a bad slot was accepted");
  } catch (const std::invalid_argument&) {
    require(broken, "rope: a good slot was refused");
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    if (slots.as<std::int64_t>()[r] < 0) continue;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t from = (r * heads + h) * dim;
      const std::int64_t to = ((r / size * heads + h) * size + r % size) * dim;
      double squares = 0;
      for (std::int64_t d = 0; d < dim; ++d) squares += k.get(from + d) * k.get(from + d);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(dim) + 1e-5);
      const auto key = [&](std::int64_t d) {
        return keys_norm == nullptr ? k.get(from + d) : k.get(from + d) * scale * norm.get(d);
      };
      for (std::int64_t d = 0; d < dim; ++d) {
        double want = key(d);
        if (d < rotary) {
          const bool low = d < rotary / 2;
          const double other = low ? -key(d + rotary / 2) : key(d - rotary / 2);
          want = want * cos.get(r * rotary + d) + other * sin.get(r * rotary + d);
        }
        require(std::abs(k_cache.get(to + d) - want) < 0.02 * std::abs(want) + tolerance(stored),
                "rope: k");
        require(std::abs(v_cache.get(to + d) - v.get(from + d)) < tolerance(stored), "rope: v");
      }
    }
  }
}

}  // namespace fuzz
