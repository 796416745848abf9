#include "fastsi/parallel.h"
#include "kernels.h"

namespace fastsi {

void top_logprobs(const TensorView& logits, const TensorView& tokens, const TensorView* row_index,
                  const TopLogprobs& result, int threads) {
  require_dims("logits", logits, 2);
  FASTSI_CHECK(is_float(logits.dtype), "logits: is ", name_of(logits.dtype),
               ", must be a floating type");
  require_dense_last("logits", logits);
  require_dims("tokens", tokens, 1);
  require_dims("token_ids", result.token_ids, 2);
  const std::int64_t sources = logits.shape[0], vocab = logits.shape[1];
  const std::int64_t rows = tokens.shape[0], count = result.token_ids.shape[1];
  FASTSI_CHECK(count <= vocab, "count: is ", count, ", the vocabulary has ", vocab, " tokens");
  const auto* token = vector_of<std::int64_t>("tokens", tokens, DType::i64, rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    FASTSI_CHECK(-1 <= token[r] && token[r] < vocab, "tokens[", r, "]: is ", token[r],
                 ", must be in 0..", vocab - 1, ", or -1 for none");
  }
  const std::int64_t* index = nullptr;
  if (row_index != nullptr) {
    index = vector_of<std::int64_t>("row_index", *row_index, DType::i64, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      FASTSI_CHECK(0 <= index[r] && index[r] < sources, "row_index[", r, "]: is ", index[r],
                   ", must be in 0..", sources - 1);
    }
  } else {
    require_size("logits", logits, 0, rows);
  }
  const DType wide = logits.dtype == DType::f64 ? DType::f64 : DType::f32;
  require_dtype("token_ids", result.token_ids, DType::i64);
  require_dtype("logprobs", result.logprobs, wide);
  for (const TensorView* view : {&result.token_ids, &result.logprobs}) {
    require_contiguous("result", *view);
    require_size("result", *view, 0, rows);
    require_size("result", *view, 1, count);
  }
  vector_of<std::int64_t>("rank", result.rank, DType::i64, rows);
  auto* rank = static_cast<std::int64_t*>(result.rank.data);
  if (static_cast<double>(rows) * static_cast<double>(vocab) < kSerialElements) threads = 1;
  const Kernels& kernel = kernels();
  parallel_for(rows, threads, [&](std::int64_t r) {
    const auto at = static_cast<std::int64_t>(size_of(logits.dtype)) * logits.stride[0] *
                    (index == nullptr ? r : index[r]);
    const TopTask task{logits.dtype,
                       static_cast<const char*>(logits.data) + at,
                       vocab,
                       count,
                       token[r],
                       static_cast<std::int64_t*>(result.token_ids.data) + r * count,
                       static_cast<char*>(result.logprobs.data) +
                           r * count * static_cast<std::int64_t>(size_of(wide))};
    rank[r] = kernel.top(task);
  });
}

}  // namespace fastsi
