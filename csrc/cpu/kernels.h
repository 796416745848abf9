// What the per-instruction-set kernels take and the table that reaches them. Arguments are raw and
// already checked; the callers (segment_attention.cc and so on) own checks, scratch and threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastsi/ops.h"

namespace fastsi {

// Throws unless the cache fits keys and values of a type, heads and head_dim.
void check_cache(const KvCache& cache, DType dtype, std::int64_t heads, std::int64_t dim);

// Attention of rows [row_first, row_last) for the query heads of one key/value head.
struct AttentionTask {
  DType dtype, cache_dtype;
  const void *q, *k_cache, *v_cache;
  const float *k_scale, *v_scale;  // of int8 caches
  void *out, *lse;                 // contiguous
  std::int64_t q_row_stride, q_head_stride;
  std::int64_t q_heads, kv_heads, head_dim, page_size;
  const SegmentPlan::Segment* segments;
  const std::int32_t *pages, *row_pos;
  AttentionOptions options;
};
struct AttentionBlock {
  std::int64_t row_first, row_last, kv_head;
  const std::int32_t* segments;  // those that meet the rows, in plan order
  std::int64_t num_segments;
};

// Merge of the n partial states of one row.
struct MergeTask {
  DType dtype;
  const void *outs, *lses;
  void *out, *lse;  // contiguous
  std::int64_t n, heads, head_dim;
  std::int64_t outs_stride[3], lses_stride[3];  // partial, row, head
};

// Throws unless the arguments of a linear layer with n output and k input features fit each other.
void check_linear_call(const TensorView& x, std::int64_t k, std::int64_t n, bool pair,
                       const LinearEpilogue& after, const TensorView& out);

// Linear layer over packed panels, for the rows and panels of a block.
struct LinearTask {
  const float* x;
  const std::int64_t* row_index;  // null: row r of the output reads row r of x
  const void* weights;            // words of 4 bytes: a float32, or two bfloat16
  const float *bias, *residual;   // null: none
  float* out;
  std::int64_t x_stride, residual_stride, out_stride;
  std::int64_t panel_stride;  // words
  std::int64_t k, n;
  Activation activation;
  bool pair;
  int weight_bytes;  // as LinearWeights::bytes
};
struct LinearBlock {
  std::int64_t row_first, row_last, panel_first, panel_last;
  std::int64_t panels;  // for which the scratch was laid out, at least panel_last - panel_first
};
struct LinearLayout {
  std::int64_t width;      // columns of a panel
  std::int64_t lanes;      // of a vector
  std::int64_t inputs;     // of a step: values of a column that lie side by side
  std::int64_t depth;      // the grain to which k is filled up with zeros
  std::int64_t rows;       // of a register block
  std::int64_t row_bytes;  // that an item reads of each row, per k
  std::int64_t kept;       // k of each row that an item finds in the cache again and again
  int least_bytes;         // of a float32 that are stored if the others are 0
};

// Draw of one row.
struct SampleTask {
  DType dtype;
  const void* logits;
  std::int64_t vocab;
  double temperature, top_p, min_p, u;
  std::int64_t top_k;
  const std::int32_t *token_ids, *count;  // adjusted tokens
  const float* bias;
  const std::uint8_t* in_prompt;
  std::int64_t num_adjusted;
  double repetition, presence, frequency;
  bool raw;  // whether logprob_raw is wanted
};
struct SampleResult {
  std::int64_t token;  // -1: NaN, +inf or no finite logit
  double logprob, logprob_full, kept_mass, logprob_raw;
};

// The likeliest tokens of a row.
struct TopTask {
  DType dtype;
  const void* logits;
  std::int64_t vocab, count, token;  // a token that is none: -1
  std::int64_t* token_ids;           // [count]
  void* logprobs;                    // [count], of the type of arithmetic
};

// RMSNorm of a row; with a residual, of residual + x, which is also written to the residual.
struct NormTask {
  DType dtype;
  const void* x;
  void* residual;  // may be null
  const void* weight;
  void* out;
  std::int64_t size;
  double eps;
  std::int64_t x_stride, residual_stride, out_stride;
};

// Norm of heads, rotation and write to the cache of a row.
struct RopeTask {
  DType dtype, cache_dtype;
  void* q;
  const void *k, *v, *cos, *sin, *q_norm, *k_norm;  // the norms may be null
  void *k_cache, *v_cache;
  float *k_scale, *v_scale;  // of int8 caches
  const std::int64_t* slots;
  std::int64_t q_stride[2], k_stride[2], v_stride[2], cos_stride, sin_stride;  // row, head
  std::int64_t q_heads, kv_heads, head_dim, rotary, page_size;
  double eps;

  void set_cache(const KvCache& cache, const std::int64_t* slot_of_row);
};
void rope_rows(const RopeTask& task, std::int64_t rows, int threads);

// Gated activation of a row.
struct ActTask {
  DType dtype;
  const void *gate, *up;
  void* out;
  std::int64_t size, gate_stride, up_stride, out_stride;
  Activation activation;
};

#define FASTSI_DECLARE_ATTENTION(isa)                                                    \
  namespace isa {                                                                        \
  std::size_t attention_scratch(const AttentionTask& task, std::int64_t rows);           \
  void attention(const AttentionTask& task, const AttentionBlock& block, void* scratch); \
  }
#define FASTSI_DECLARE_LINEAR(isa, name)                                                      \
  namespace isa {                                                                             \
  LinearLayout name##_layout();                                                               \
  std::size_t name##_scratch(const LinearTask& task, std::int64_t rows, std::int64_t panels); \
  void name##_prepare(const LinearTask& task, std::int64_t row, std::int64_t rows,            \
                      std::int64_t panels, void* scratch);                                    \
  void name(const LinearTask& task, const LinearBlock& block, void* scratch);                 \
  }
#define FASTSI_DECLARE_KERNELS(isa)                                 \
  FASTSI_DECLARE_ATTENTION(isa)                                     \
  FASTSI_DECLARE_LINEAR(isa, linear_fp32)                           \
  FASTSI_DECLARE_LINEAR(isa, linear_bf16)                           \
  namespace isa {                                                   \
  void merge(const MergeTask& task, std::int64_t row);              \
  std::size_t sample_scratch(const SampleTask& task);               \
  SampleResult sample(const SampleTask& task, void* scratch);       \
  std::int64_t top(const TopTask& task); /* rank of the token */    \
  void norm(const NormTask& task, std::int64_t row);                \
  void rope(const RopeTask& task, std::int64_t row, void* scratch); \
  void act(const ActTask& task, std::int64_t row);                  \
  }
FASTSI_DECLARE_KERNELS(portable)
FASTSI_DECLARE_KERNELS(avx2)
FASTSI_DECLARE_KERNELS(avx512)
FASTSI_DECLARE_KERNELS(amx)
FASTSI_DECLARE_ATTENTION(avx2_vnni)
FASTSI_DECLARE_ATTENTION(avx512_vnni)
FASTSI_DECLARE_LINEAR(avx512_bf16, linear_bf16)
#undef FASTSI_DECLARE_KERNELS
#undef FASTSI_DECLARE_LINEAR
#undef FASTSI_DECLARE_ATTENTION

struct LinearKernel {
  decltype(&portable::linear_fp32_layout) layout;
  decltype(&portable::linear_fp32_scratch) scratch;
  decltype(&portable::linear_fp32_prepare) prepare;
  decltype(&portable::linear_fp32) run;
};

struct Kernels {
  decltype(&portable::attention_scratch) attention_scratch;
  decltype(&portable::attention) attention;
  LinearKernel linear_fp32, linear_bf16;
  decltype(&portable::merge) merge;
  decltype(&portable::sample_scratch) sample_scratch;
  decltype(&portable::sample) sample;
  decltype(&portable::top) top;
  decltype(&portable::norm) norm;
  decltype(&portable::rope) rope;
  decltype(&portable::act) act;
};

// Those of the instruction set in force.
const Kernels& kernels();

}  // namespace fastsi
