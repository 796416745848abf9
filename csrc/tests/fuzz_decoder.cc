// Random calls of Decoder::forward without layers: lookups, kept rows, norm and head; see
// fuzz_ops.cc.
#include "fastsi/decoder.h"

#include "fuzz.h"

namespace fuzz {
namespace {

Tensor random_rows(std::int64_t count, std::int64_t below) {
  Tensor rows(DType::i64, {count});
  for (std::int64_t i = 0; i < count; ++i) rows.as<std::int64_t>()[i] = pick(0, below - 1);
  return rows;
}

}  // namespace

void decoder() {
  const std::int64_t rows = pick(1, 70), kept = pick(0, rows), vocab = pick(1, 90);
  const std::int64_t width = pick(1, 130), rotary = 2 * pick(0, 8), length = pick(1, 50);
  const DType type = pick(0, 1) ? DType::bf16 : DType::f32;
  Tensor embedding(type, {vocab, width}), norm(DType::f32, {width});
  Tensor cos(DType::f32, {length, rotary}), sin(DType::f32, {length, rotary});
  Tensor head(DType::f32, {vocab, width});
  for (Tensor* tensor : {&embedding, &norm, &cos, &sin, &head}) tensor->fill_normal();
  const auto shape = fastsi::linear_packed_shape(vocab, width, false, DType::f32);
  Tensor data(DType::f32, {shape[0], shape[1], shape[2]});
  const fastsi::LinearWeights packed{data.view, vocab, width, false, 4};
  fastsi::linear_pack(head.view, packed, 0, 1);
  Tensor ids = random_rows(rows, vocab), positions = random_rows(rows, length);
  Tensor keep = random_rows(kept, rows);
  Tensor hidden(DType::f32, {rows, width}), normed(DType::f32, {rows, width});
  Tensor own_cos(DType::f32, {rows, rotary}), own_sin(DType::f32, {rows, rotary});
  Tensor other(DType::f32, {rows, 1}), last(DType::f32, {kept, width});
  Tensor logits(DType::f32, {kept, vocab}), expected(DType::f32, {kept, vocab});
  const fastsi::Decoder model(embedding.view, {}, {norm.view, 1e-5}, {packed, std::nullopt});
  const Tensor none = ints({}), start = ints({0});
  const TensorView& no = none.view;
  const fastsi::SegmentPlan plan(start.view, no, no, no, no, no, no, no, no, no, 16);
  const fastsi::DecoderScratch scratch{hidden.view, own_cos.view, own_sin.view,
                                       normed.view, other.view,   other.view,
                                       other.view,  other.view,   last.view};
  const bool given = pick(0, 1);  // rows that are embedded already
  if (given) hidden.fill_normal();
  Tensor chosen(DType::f32, {kept, width});
  for (std::int64_t i = 0; i < kept; ++i) {
    const std::int64_t row = keep.as<std::int64_t>()[i];
    for (std::int64_t c = 0; c < width; ++c) {
      chosen.set(i * width + c, given ? hidden.get(row * width + c)
                                      : embedding.get(ids.as<std::int64_t>()[row] * width + c));
    }
  }
  const int fault = pick(0, 3) ? 0 : static_cast<int>(pick(1, 3));
  if (fault == 1) ids.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? vocab : -1;
  if (fault == 2) positions.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? length : -1;
  if (fault == 3 && kept > 0) keep.as<std::int64_t>()[pick(0, kept - 1)] = pick(0, 1) ? rows : -1;
  const bool refused = fault == 2 || (fault == 1 && !given) || (fault == 3 && kept > 0);
  fastsi::DecoderStep step{
      std::nullopt, positions.view, keep.view, {cos.view, sin.view}, {}, {}, {}, {}, ids.view};
  if (!given) step.ids = ids.view;
  try {
    model.forward(step, plan, scratch, logits.view, static_cast<int>(pick(1, 3)));
  } catch (const std::invalid_argument&) {
    require(refused, "decoder: a good step was refused");
    return;
  }
  require(!refused, "decoder: a bad step was accepted");
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t from = positions.as<std::int64_t>()[r] * rotary;
    for (std::int64_t c = 0; c < rotary; ++c) {
      require(own_cos.get(r * rotary + c) == cos.get(from + c), "decoder: cos");
      require(own_sin.get(r * rotary + c) == sin.get(from + c), "decoder: sin");
    }
  }
  fastsi::rms_norm(chosen.view, norm.view, 1e-5, nullptr, chosen.view, 1);
  fastsi::linear(chosen.view, packed, {}, expected.view, 1);
  const auto bytes = static_cast<std::size_t>(kept * vocab) * sizeof(float);
  require(std::memcmp(logits.view.data, expected.view.data, bytes) == 0, "decoder: logits");
}

}  // namespace fuzz
