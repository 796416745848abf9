#include "fastsi/parallel.h"
#include "fastsi/philox.h"
#include "kernels.h"

namespace fastsi {
namespace {

struct Fields {
  const float *temperature, *top_p, *min_p;
  const std::int32_t* top_k;
  const std::int64_t *key, *position, *row_index;
};

struct AdjustFields {
  const std::int64_t* indptr = nullptr;
  const std::int32_t *token_ids = nullptr, *count = nullptr;
  const float *bias = nullptr, *repetition = nullptr, *presence = nullptr, *frequency = nullptr;
  const std::uint8_t* in_prompt = nullptr;
};

Fields check_params(const SampleParams& p, std::int64_t rows) {
  return {vector_of<float>("params.temperature", p.temperature, DType::f32, rows),
          vector_of<float>("params.top_p", p.top_p, DType::f32, rows),
          vector_of<float>("params.min_p", p.min_p, DType::f32, rows),
          vector_of<std::int32_t>("params.top_k", p.top_k, DType::i32, rows),
          vector_of<std::int64_t>("params.key", p.key, DType::i64, rows),
          vector_of<std::int64_t>("params.position", p.position, DType::i64, rows),
          nullptr};
}

AdjustFields check_adjust(const LogitAdjust& a, std::int64_t rows, std::int64_t vocab) {
  const std::int64_t entries = a.token_ids.shape[0];
  AdjustFields f;
  f.indptr = vector_of<std::int64_t>("adjust.indptr", a.indptr, DType::i64, rows + 1);
  f.token_ids = vector_of<std::int32_t>("adjust.token_ids", a.token_ids, DType::i32, entries);
  f.count = vector_of<std::int32_t>("adjust.count", a.count, DType::i32, entries);
  f.bias = vector_of<float>("adjust.bias", a.bias, DType::f32, entries);
  f.in_prompt = vector_of<std::uint8_t>("adjust.in_prompt", a.in_prompt, DType::u8, entries);
  f.repetition = vector_of<float>("adjust.repetition", a.repetition, DType::f32, rows);
  f.presence = vector_of<float>("adjust.presence", a.presence, DType::f32, rows);
  f.frequency = vector_of<float>("adjust.frequency", a.frequency, DType::f32, rows);
  FASTSI_CHECK(f.indptr[0] == 0 && f.indptr[rows] == entries, "adjust.indptr: must run from 0 to ",
               entries, ", runs from ", f.indptr[0], " to ", f.indptr[rows]);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(f.indptr[r] <= f.indptr[r + 1], "adjust.indptr: decreases at row ", r);
  }
  for (std::int64_t i = 0; i < entries; ++i) {
    FASTSI_CHECK(0 <= f.token_ids[i] && f.token_ids[i] < vocab, "adjust.token_ids[", i, "]: is ",
                 f.token_ids[i], ", must be in 0..", vocab - 1);
  }
  return f;
}

void check_result(const SampledTokens& result, std::int64_t rows, DType logprobs) {
  vector_of<std::int64_t>("token", result.token, DType::i64, rows);
  vector_of<char>("logprob", result.logprob, logprobs, rows);
  vector_of<char>("logprob_full", result.logprob_full, logprobs, rows);
  vector_of<char>("kept_mass", result.kept_mass, logprobs, rows);
  if (result.logprob_raw) vector_of<char>("logprob_raw", *result.logprob_raw, logprobs, rows);
}

void put(const TensorView& view, std::int64_t row, double value) {
  if (view.dtype == DType::f64) {
    static_cast<double*>(view.data)[row] = value;
  } else {
    static_cast<float*>(view.data)[row] = static_cast<float>(value);
  }
}

}  // namespace

void sample_tokens(const TensorView& logits, const SampleParams& params,
                   const TensorView* row_index, const LogitAdjust* adjust,
                   const SampledTokens& result, int threads) {
  require_dims("logits", logits, 2);
  FASTSI_CHECK(is_float(logits.dtype), "logits: is ", name_of(logits.dtype),
               ", must be a floating type");
  require_dense_last("logits", logits);
  const std::int64_t sources = logits.shape[0], vocab = logits.shape[1];
  const std::int64_t rows = params.temperature.shape[0];
  FASTSI_CHECK(vocab > 0, "logits: the vocabulary is empty");
  Fields field = check_params(params, rows);
  if (row_index != nullptr) {
    field.row_index = vector_of<std::int64_t>("row_index", *row_index, DType::i64, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      FASTSI_CHECK(0 <= field.row_index[r] && field.row_index[r] < sources, "row_index[", r,
                   "]: is ", field.row_index[r], ", must be in 0..", sources - 1);
    }
  } else {
    require_size("logits", logits, 0, rows);
  }
  const AdjustFields change = adjust ? check_adjust(*adjust, rows, vocab) : AdjustFields{};
  check_result(result, rows, logits.dtype == DType::f64 ? DType::f64 : DType::f32);

  if (static_cast<double>(rows) * static_cast<double>(vocab) < kSerialElements) threads = 1;
  const Kernels& kernel = kernels();
  parallel_for(rows, threads, [&](std::int64_t r) {
    const std::int64_t source = field.row_index ? field.row_index[r] : r;
    SampleTask task{};
    task.dtype = logits.dtype;
    task.logits = static_cast<const char*>(logits.data) +
                  source * logits.stride[0] * static_cast<std::int64_t>(size_of(logits.dtype));
    task.vocab = vocab;
    task.raw = result.logprob_raw != nullptr;
    task.temperature = field.temperature[r];
    task.top_p = field.top_p[r];
    task.min_p = field.min_p[r];
    task.top_k = field.top_k[r];
    task.u = uniform(static_cast<std::uint64_t>(field.key[r]),
                     static_cast<std::uint64_t>(field.position[r]));
    if (adjust != nullptr) {
      const std::int64_t first = change.indptr[r];
      task.num_adjusted = change.indptr[r + 1] - first;
      task.token_ids = change.token_ids + first;
      task.count = change.count + first;
      task.bias = change.bias + first;
      task.in_prompt = change.in_prompt + first;
      task.repetition = change.repetition[r];
      task.presence = change.presence[r];
      task.frequency = change.frequency[r];
    }
    const SampleResult drawn = kernel.sample(task, thread_scratch(kernel.sample_scratch(task)));
    static_cast<std::int64_t*>(result.token.data)[r] = drawn.token;
    put(result.logprob, r, drawn.logprob);
    put(result.logprob_full, r, drawn.logprob_full);
    put(result.kept_mass, r, drawn.kept_mass);
    if (task.raw) put(*result.logprob_raw, r, drawn.logprob_raw);
  });
}

}  // namespace fastsi
