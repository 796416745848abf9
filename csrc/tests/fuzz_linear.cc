// Random calls of linear_pack, linear_unpack and linear; see fuzz_ops.cc.
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

// Packs `weight` as one or two weights side by side and checks that unpacking gives the same bits.
void pack(const Tensor& weight, const fastsi::LinearWeights& packed) {
  const std::int64_t cut = pick(0, packed.n), k = packed.k;
  const auto size = static_cast<std::int64_t>(fastsi::size_of(weight.view.dtype));
  Tensor back(weight.view.dtype, {packed.n, k});
  for (const auto& [first, last] : {std::pair{std::int64_t{0}, cut}, std::pair{cut, packed.n}}) {
    TensorView part = weight.view;
    part.shape[0] = last - first;
    part.data = static_cast<char*>(weight.view.data) + first * k * size;
    fastsi::linear_pack(part, packed, first, static_cast<int>(pick(1, 3)));
    part.data = static_cast<char*>(back.view.data) + first * k * size;
    fastsi::linear_unpack(packed, first, part, static_cast<int>(pick(1, 3)));
  }
  const auto bytes = static_cast<std::size_t>(weight.view.numel() * size);
  require(std::memcmp(back.view.data, weight.view.data, bytes) == 0, "linear: unpack");
}

// Leaves that many bytes of each weight.
void shorten(Tensor& weight, int bytes) {
  const std::uint32_t mask = bytes == 4 ? ~0u : bytes == 3 ? 0xFFFFFF00u : 0xFFFF0000u;
  auto* bits = weight.as<std::uint32_t>();
  for (std::int64_t i = 0; i < weight.view.numel(); ++i) bits[i] &= mask;
}

}  // namespace

void linear() {
  const std::int64_t rows = pick(0, 70), sources = rows + pick(0, 3);
  const std::int64_t k =
      pick(0, 9) ? pick(0, 130) : pick(700, 2600);  // several passes, with many rows
  const bool pair = pick(0, 1), gather = sources > 0 && pick(0, 1);
  const std::int64_t columns = pick(1, 100), n = pair ? 2 * columns : columns;
  const bool narrow = pick(0, 1);
  const DType type = narrow ? DType::bf16 : DType::f32;
  Tensor x(DType::f32, {gather ? sources : rows, k}), weight(type, {n, k});
  Tensor bias(DType::f32, {n}), residual(DType::f32, {rows, columns});
  Tensor out(DType::f32, {rows, columns}), index(DType::i64, {rows});
  for (Tensor* tensor : {&x, &weight, &bias, &residual}) tensor->fill_normal();
  for (std::int64_t r = 0; gather && r < rows; ++r) {
    index.as<std::int64_t>()[r] = pick(0, sources - 1);
  }
  if (narrow) {
    shorten(x, 2);  // then rounding changes nothing
  } else {
    shorten(weight, static_cast<int>(pick(2, 4)));
  }
  const int bytes = narrow ? 2 : fastsi::linear_bytes(weight.view, 2);
  const auto shape = fastsi::linear_packed_shape(n, k, pair, type, bytes);
  Tensor data(type, {shape[0], shape[1], shape[2]});
  const fastsi::LinearWeights packed{data.view, n, k, pair, bytes};
  pack(weight, packed);
  fastsi::LinearEpilogue after;
  const bool biased = pick(0, 1), added = pick(0, 1);
  if (biased) after.bias = &bias.view;
  if (added) after.residual = &residual.view;
  if (gather) after.row_index = &index.view;
  after.activation = static_cast<fastsi::Activation>(pick(0, fastsi::kNumActivations - 1));
  if (pick(0, 4) == 0) {  // weights of another k, or a row that is not there
    fastsi::LinearWeights wrong = packed;
    const bool outside = gather && rows > 0 && pick(0, 1);
    if (outside) index.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? sources : -1;
    if (!outside) wrong.k += 2 * shape[1] + 1;
    try {
      fastsi::linear(x.view, wrong, after, out.view, 2);
    } catch (const std::invalid_argument&) {
      return;
    }
    die("linear: a bad argument was accepted");
  }
  fastsi::linear(x.view, packed, after, out.view, static_cast<int>(pick(1, 3)));
  for (std::int64_t check = 0; check < std::min<std::int64_t>(rows * columns, 20); ++check) {
    const std::int64_t r = pick(0, rows - 1), c = pick(0, columns - 1);
    const std::int64_t source = gather ? index.as<std::int64_t>()[r] : r;
    double sums[2] = {}, sizes[2] = {1, 1};
    for (int half = 0; half <= (pair ? 1 : 0); ++half) {
      const std::int64_t feature = c + half * columns;
      for (std::int64_t i = 0; i < k; ++i) {
        const double product = x.get(source * k + i) * weight.get(feature * k + i);
        sums[half] += product;
        sizes[half] += std::abs(product);
      }
      if (biased) sums[half] += bias.get(feature);
    }
    double expected = activated(sums[0], after.activation) * (pair ? sums[1] : 1.0);
    if (added) expected += residual.get(r * columns + c);
    const double scale = sizes[0] * (pair ? sizes[1] : 1.0) + std::abs(expected);
    require(std::abs(out.get(r * columns + c) - expected) <= 1e-5 * scale, "linear: out");
  }
}

}  // namespace fuzz
