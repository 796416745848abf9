#include <algorithm>
#include <chrono>
#include <cstdint>

#include "fastsi/decoder.h"
#include "fastsi/parallel.h"

namespace fastsi {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Entry i of [N, ...].
TensorView row_of(const TensorView& table, std::int64_t i) {
  TensorView row = table;
  row.data = static_cast<char*>(table.data) +
             i * table.stride[0] * static_cast<std::int64_t>(size_of(table.dtype));
  row.dims = table.dims - 1;
  for (int d = 0; d < row.dims; ++d) {
    row.shape[d] = table.shape[d + 1];
    row.stride[d] = table.stride[d + 1];
  }
  return row;
}

void check_steps(const char* name, const TensorView& view, int dims, std::int64_t steps) {
  require_dims(name, view, dims);
  require_size(name, view, 0, steps);
}

// What one step leaves to the next: int64 [R] each.
struct Moving {
  std::int64_t *ids, *positions, *slots, *draw_positions;
  std::int64_t rows;

  Moving(const DecoderStep& step, const DecodeRun& run) : rows(step.positions.shape[0]) {
    FASTSI_CHECK(step.ids.has_value(), "ids: steps that follow each other need them");
    const auto vector = [this](const char* name, const TensorView& view) {
      return const_cast<std::int64_t*>(vector_of<std::int64_t>(name, view, DType::i64, rows));
    };
    ids = vector("ids", *step.ids);
    positions = vector("positions", step.positions);
    slots = vector("slots", step.slots);
    draw_positions = vector("params.position", run.params.position);
    const std::int64_t* keep = vector("keep", step.keep);
    for (std::int64_t r = 0; r < rows; ++r) {
      FASTSI_CHECK(keep[r] == r, "keep: entry ", r, " is ", keep[r], ", every row draws");
    }
  }

  void advance(const std::int64_t* tokens, SegmentPlan& plan) const {
    plan.append_token(slots);
    std::copy_n(tokens, rows, ids);
    for (std::int64_t r = 0; r < rows; ++r) {
      ++positions[r];
      ++draw_positions[r];
    }
  }
};

// Tokens that end paths.
class Ends {
 public:
  Ends(const DecodeRun& run, std::int64_t rows)
      : rows_(rows),
        indptr_(vector_of<std::int64_t>("end_indptr", run.end_indptr, DType::i64, rows + 1)),
        ids_(vector_of<std::int64_t>("end_ids", run.end_ids, DType::i64, run.end_ids.shape[0])) {
    FASTSI_CHECK(indptr_[0] == 0 && indptr_[rows] == run.end_ids.shape[0],
                 "end_indptr: must run from 0 to ", run.end_ids.shape[0]);
    for (std::int64_t r = 0; r < rows; ++r) {
      FASTSI_CHECK(indptr_[r] <= indptr_[r + 1], "end_indptr: decreases at row ", r);
    }
  }

  // Whether a path ends with these tokens.
  bool reached(const std::int64_t* tokens) const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      const auto *first = ids_ + indptr_[r], *last = ids_ + indptr_[r + 1];
      if (std::find(first, last, tokens[r]) != last) return true;
    }
    return false;
  }

 private:
  std::int64_t rows_;
  const std::int64_t *indptr_, *ids_;
};

// Whether a text may end with these tokens, none of which is -1.
bool text_may_end(const StopSearch& search, const TensorView& tokens) {
  match_stop(tokens, search.slots, search.table, search.rules, search.state, search.hit);
  const auto* hit = static_cast<const std::uint8_t*>(search.hit.data);
  return std::any_of(hit, hit + search.hit.shape[0], [](std::uint8_t one) { return one != 0; });
}

}  // namespace

DecodeOutcome Decoder::decode(const DecoderStep& step, SegmentPlan& plan,
                              const DecoderScratch& scratch, const TensorView& logits,
                              const DecodeRun& run, int threads) const {
  const Moving moving(step, run);
  const Ends ends(run, moving.rows);
  const SampledTokens& result = run.result;
  const std::int64_t most = result.token.shape[0];
  FASTSI_CHECK(most > 0, "result: has no rows");
  for (const TensorView* view :
       {&result.token, &result.logprob, &result.logprob_full, &result.kept_mass}) {
    check_steps("result", *view, 2, most);
  }
  if (result.logprob_raw) check_steps("result", *result.logprob_raw, 2, most);
  if (run.top) {
    check_steps("top.token_ids", run.top->token_ids, 3, most);
    check_steps("top.logprobs", run.top->logprobs, 3, most);
    check_steps("top.rank", run.top->rank, 2, most);
  }
  const auto start = Clock::now();
  DecodeOutcome outcome{0, 0};
  with_team(threads, [&] {
    for (;;) {
      forward(step, plan, scratch, logits, threads);
      const auto drawing = Clock::now();
      const std::int64_t i = outcome.steps++;
      const TensorView token = row_of(result.token, i);
      TensorView raw;
      if (result.logprob_raw) raw = row_of(*result.logprob_raw, i);
      sample_tokens(logits, run.params, nullptr, nullptr,
                    {token, row_of(result.logprob, i), row_of(result.logprob_full, i),
                     row_of(result.kept_mass, i), result.logprob_raw ? &raw : nullptr},
                    threads);
      if (run.top) {
        top_logprobs(
            logits, token, nullptr,
            {row_of(run.top->token_ids, i), row_of(run.top->logprobs, i), row_of(run.top->rank, i)},
            threads);
      }
      const auto* tokens = static_cast<const std::int64_t*>(token.data);
      const bool failed = std::any_of(tokens, tokens + moving.rows, [](auto t) { return t < 0; });
      bool last = failed || ends.reached(tokens);
      // Texts take in every token, the last ones too; a failed draw is none.
      if (run.search && !failed) last |= text_may_end(*run.search, token);
      last |= outcome.steps == most || seconds_since(start) > run.seconds;
      if (!last) moving.advance(tokens, plan);
      outcome.draw_seconds += seconds_since(drawing);
      if (last) return;
    }
  });
  return outcome;
}

}  // namespace fastsi
