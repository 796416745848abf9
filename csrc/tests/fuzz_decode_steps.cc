// Random calls of Decoder::decode without layers: tokens, what each step leaves to the next, and
// where a run ends; see fuzz_ops.cc.
#include "fastsi/decoder.h"
#include "fuzz.h"

namespace fuzz {
namespace {

using Words = std::vector<std::int64_t>;

Tensor words(const Words& values) {
  Tensor tensor(DType::i64, {static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), tensor.as<std::int64_t>());
  return tensor;
}

// A model of an embedding, a norm and a head.
struct Model {
  std::int64_t vocab = pick(1, 60), width = pick(1, 40), length = 64;
  Tensor embedding{DType::f32, {vocab, width}}, norm{DType::f32, {width}};
  Tensor cos{DType::f32, {length, 2}}, sin{DType::f32, {length, 2}}, data = packed();
  fastsi::Decoder decoder{embedding.view, {}, {norm.view, 1e-5}, {weights(), std::nullopt}};

  Tensor packed() const {
    const auto shape = fastsi::linear_packed_shape(vocab, width, false, DType::f32);
    return Tensor(DType::f32, {shape[0], shape[1], shape[2]});
  }
  fastsi::LinearWeights weights() const { return {data.view, vocab, width, false, 4}; }

  Model() {
    for (Tensor* tensor : {&embedding, &norm, &cos, &sin}) tensor->fill_normal();
    Tensor head(DType::f32, {vocab, width});
    head.fill_normal();
    fastsi::linear_pack(head.view, weights(), 0, 1);
  }
};

// Paths that decode: page size, tokens and pages of each, a span before them that they share.
struct Paths {
  std::int64_t rows = pick(1, 20), page_size = pick(1, 5), shared = pick(0, 1);
  Words tokens, have;  // generated before the last one, which the first step feeds; pages
  std::vector<std::int32_t> indptr{0}, pages, offset, kv_len, start, begin, end, none, own, pos;

  Paths() {
    if (shared) add(pick(1, 9), 0, rows, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      tokens.push_back(pick(0, 12));
      have.push_back((tokens[r] + page_size) / page_size + pick(0, 2));
      add(tokens[r] + 1, r, r + 1, true);
      pos.push_back(static_cast<std::int32_t>(tokens[r]));
    }
  }

  void add(std::int64_t length, std::int64_t first, std::int64_t last, bool single) {
    const std::int64_t count = single ? have[first] : (length + page_size - 1) / page_size;
    for (std::int64_t p = 0; p < count; ++p) {
      pages.push_back(static_cast<std::int32_t>(pick(0, 50)));
    }
    indptr.push_back(static_cast<std::int32_t>(pages.size()));
    for (auto* column : {&offset, &start, &none}) column->push_back(0);
    kv_len.push_back(static_cast<std::int32_t>(length));
    begin.push_back(static_cast<std::int32_t>(first));
    end.push_back(static_cast<std::int32_t>(last));
    own.push_back(single);
  }

  fastsi::SegmentPlan plan() const {
    return {ints(indptr).view, ints(pages).view, ints(offset).view, ints(kv_len).view,
            ints(start).view,  ints(begin).view, ints(end).view,    ints(none).view,
            ints(own).view,    ints(pos).view,   page_size};
  }

  // Where token `at` of a row's path stands.
  std::int64_t slot(std::int64_t row, std::int64_t at) const {
    return pages[indptr[shared + row] + at / page_size] * page_size + at % page_size;
  }
  bool holds(std::int64_t row, std::int64_t at) const { return at < have[row] * page_size; }
};

// Results of N steps of R rows, with `listed` likely tokens of each.
struct Drawn {
  Tensor token, logprob, full, mass, likely, likely_logprob, rank;
  Drawn(std::int64_t steps, std::int64_t rows, std::int64_t listed)
      : token(DType::i64, {steps, rows}),
        logprob(DType::f32, {steps, rows}),
        full(DType::f32, {steps, rows}),
        mass(DType::f32, {steps, rows}),
        likely(DType::i64, {steps, rows, listed}),
        likely_logprob(DType::f32, {steps, rows, listed}),
        rank(DType::i64, {steps, rows}) {}
  fastsi::SampledTokens views() const { return {token.view, logprob.view, full.view, mass.view}; }
  fastsi::TopLogprobs top() const { return {likely.view, likely_logprob.view, rank.view}; }
};

// Entry 0 of [1, ...].
TensorView first_of(TensorView table) {
  --table.dims;
  for (int d = 0; d < table.dims; ++d) {
    table.shape[d] = table.shape[d + 1];
    table.stride[d] = table.stride[d + 1];
  }
  return table;
}

std::int64_t number(const Tensor& of, std::int64_t i) {
  return static_cast<const std::int64_t*>(of.view.data)[i];
}

// How rows draw, and the tokens that end their paths.
struct Settings {
  Tensor temperature, top_k, one, zero, key;
  Words indptr{0}, ends;

  Settings(std::int64_t rows, std::int64_t vocab)
      : temperature(DType::f32, {rows}),
        top_k(DType::i32, {rows}),
        one(DType::f32, {rows}),
        zero(DType::f32, {rows}),
        key(DType::i64, {rows}) {
    for (std::int64_t r = 0; r < rows; ++r) {
      temperature.set(r, pick(0, 3) ? 0.8 : 0);
      one.set(r, 1);
      key.as<std::int64_t>()[r] = pick(0, 1 << 30);
      for (std::int64_t e = pick(0, 6) ? 0 : pick(1, 2); e > 0; --e) {
        ends.push_back(pick(0, vocab - 1));
      }
      indptr.push_back(static_cast<std::int64_t>(ends.size()));
    }
  }

  bool ends_at(std::int64_t row, std::int64_t token) const {
    const auto last = ends.begin() + indptr[row + 1];
    return std::find(ends.begin() + indptr[row], last, token) != last;
  }

  fastsi::SampleParams params(const Tensor& position) const {
    return {temperature.view, top_k.view, one.view, zero.view, key.view, position.view};
  }
};

// Steps one by one, each from tokens and positions to tokens.
struct OneByOne {
  const Model& model;
  const Settings& settings;
  std::int64_t listed;
  Words ids, at, tokens, likely, ranks;  // what is fed next and where; results, step by step
  std::vector<float> logprobs;

  // Whether a path ends with it.
  bool step() {
    const auto rows = static_cast<std::int64_t>(ids.size());
    Tensor x(DType::f32, {rows, model.width}), logits(DType::f32, {rows, model.vocab});
    for (std::int64_t i = 0; i < rows * model.width; ++i) {
      x.set(i, model.embedding.get(ids[i / model.width] * model.width + i % model.width));
    }
    fastsi::rms_norm(x.view, model.norm.view, 1e-5, nullptr, x.view, 1);
    fastsi::linear(x.view, model.weights(), {}, logits.view, 1);
    const Drawn drawn(1, rows, listed);
    const Tensor position = words(at);
    fastsi::sample_tokens(logits.view, settings.params(position), nullptr, nullptr,
                          {first_of(drawn.token.view), first_of(drawn.logprob.view),
                           first_of(drawn.full.view), first_of(drawn.mass.view)},
                          1);
    const auto [likely_ids, likely_logprobs, rank] = drawn.top();
    fastsi::top_logprobs(logits.view, first_of(drawn.token.view), nullptr,
                         {first_of(likely_ids), first_of(likely_logprobs), first_of(rank)}, 1);
    bool over = false;
    for (std::int64_t r = 0; r < rows; ++r) {
      ids[r] = number(drawn.token, r);
      tokens.push_back(ids[r]);
      ranks.push_back(number(drawn.rank, r));
      for (std::int64_t i = 0; i < listed; ++i) {
        likely.push_back(number(drawn.likely, r * listed + i));
      }
      logprobs.push_back(static_cast<float>(drawn.full.get(r)));
      ++at[r];
      over = over || settings.ends_at(r, ids[r]);
    }
    return over;
  }
};

}  // namespace

void decode_steps() {
  const Model model;
  const Paths paths;
  const std::int64_t rows = paths.rows, most = pick(1, 12);
  Settings settings(rows, model.vocab);
  Words ids, keep, slots;
  for (std::int64_t r = 0; r < rows; ++r) {
    ids.push_back(pick(0, model.vocab - 1));
    keep.push_back(r);
    slots.push_back(paths.slot(r, paths.tokens[r]));
  }
  const int fault = pick(0, 5) ? 0 : static_cast<int>(pick(1, 3));
  const double seconds = pick(0, 9) ? 1e9 : 0;
  const std::int64_t listed = pick(0, std::min<std::int64_t>(3, model.vocab));
  OneByOne expected{model, settings, listed, ids, paths.tokens, {}, {}, {}, {}};
  bool full = false;
  std::int64_t steps = 0;
  for (bool over = false; !over && !full;) {
    over = expected.step() | (++steps == most) | (seconds == 0);
    for (std::int64_t r = 0; r < rows; ++r) {
      full = full || (!over && !paths.holds(r, expected.at[r]));
    }
  }

  if (fault == 1) keep[pick(0, rows - 1)] = rows;
  if (fault == 2) ++settings.indptr[rows];
  const Tensor id = words(ids), position = words(paths.tokens), kept = words(keep);
  const Tensor slot = words(slots), draw_position = words(paths.tokens);
  const Tensor end_indptr = words(settings.indptr), end_ids = words(settings.ends);
  Tensor hidden(DType::f32, {rows, model.width}), normed(DType::f32, {rows, model.width});
  Tensor own_cos(DType::f32, {rows, 2}), own_sin(DType::f32, {rows, 2});
  Tensor other(DType::f32, {rows, 1}), last(DType::f32, {rows, model.width});
  Tensor logits(DType::f32, {rows, model.vocab});
  const fastsi::DecoderScratch scratch{hidden.view, own_cos.view, own_sin.view,
                                       normed.view, other.view,   other.view,
                                       other.view,  other.view,   last.view};
  fastsi::DecoderStep step{
      id.view, position.view, kept.view, {model.cos.view, model.sin.view}, {}, {}, {},
      {},      slot.view};
  if (fault == 3) step.ids.reset();
  const Drawn drawn(most, rows, listed);
  fastsi::DecodeRun run{settings.params(draw_position),
                        drawn.views(),
                        end_indptr.view,
                        end_ids.view,
                        std::nullopt,
                        std::nullopt,
                        seconds};
  const bool lists = pick(0, 1);
  if (lists) run.top = drawn.top();
  fastsi::SegmentPlan plan = paths.plan();
  fastsi::DecodeOutcome outcome{};
  try {
    const int threads = static_cast<int>(pick(1, 3));
    outcome = model.decoder.decode(step, plan, scratch, logits.view, run, threads);
  } catch (const std::invalid_argument&) {
    return require(fault > 0 || full, "decode: a good run was refused");
  }
  require(fault == 0 && !full, "decode: a bad run was accepted");
  require(outcome.steps == steps, "decode: number of steps");
  for (std::int64_t i = 0; i < steps * rows; ++i) {
    require(number(drawn.token, i) == expected.tokens[i], "decode: token");
    require(static_cast<float>(drawn.full.get(i)) == expected.logprobs[i], "decode: log-prob");
    require(!lists || number(drawn.rank, i) == expected.ranks[i], "decode: rank");
  }
  for (std::int64_t i = 0; i < steps * rows * listed && lists; ++i) {
    require(number(drawn.likely, i) == expected.likely[i], "decode: likely token");
  }
  // The last step's tokens are not fed: the inputs are those of that step.
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t at = paths.tokens[r] + steps - 1;
    require(number(position, r) == at && number(draw_position, r) == at, "decode: position");
    require(number(slot, r) == paths.slot(r, at), "decode: slot");
    const std::int64_t fed = steps > 1 ? expected.tokens[(steps - 2) * rows + r] : ids[r];
    require(number(id, r) == fed, "decode: fed token");
    const std::size_t own = plan.segments().size() - rows + r;
    require(plan.segments()[own].kv_len == at + 1 && plan.row_pos()[r] == at, "decode: plan");
  }
}

}  // namespace fuzz
