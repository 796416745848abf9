// The ops, free of Python and torch. Contracts: docs/design.md, "Segments" and "Ops". Every
// function checks its arguments (std::invalid_argument), allocates nothing but per-thread scratch,
// and gives each row bits that depend neither on the other rows nor on the number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fastsi/tensor_view.h"

namespace fastsi {

// A checked copy of a SegmentPlan, made once per step and shared by all layers.
class SegmentPlan {
 public:
  struct Segment {
    std::int64_t first_page, num_pages;  // in pages()
    std::int64_t page_offset, kv_len, kv_start;
    std::int64_t row_begin, row_end;
    bool causal;
    bool per_path;  // belongs to one path: few rows, so no arithmetic that has to repack it
  };

  // The segments that meet each block of `rows` consecutive rows, in plan order:
  // block b owns segments[begin[b] .. begin[b + 1]).
  struct Blocks {
    std::int64_t rows;
    std::vector<std::int32_t> begin, segments;
  };

  // Views as in docs/design.md; `page_size` in tokens. Throws if the plan is inconsistent.
  SegmentPlan(const TensorView& page_indptr, const TensorView& page_ids,
              const TensorView& page_offset, const TensorView& kv_len, const TensorView& kv_start,
              const TensorView& row_begin, const TensorView& row_end, const TensorView& causal,
              const TensorView& per_path, const TensorView& row_pos, std::int64_t page_size);

  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<std::int32_t>& pages() const { return pages_; }
  const std::vector<std::int32_t>& row_pos() const { return row_pos_; }
  std::int64_t page_size() const { return page_size_; }
  std::int64_t num_pages_needed() const { return num_pages_needed_; }
  // Sum over segments of tokens times rows: the work of one head.
  double pairs() const { return pairs_; }

  // Makes the last segments, one for each row in order, one token longer, as the next token of
  // decoding paths does; slots[r] is then where keys and values of that token go. Throws, with
  // nothing changed, where the last segments are no such, or have no page for it.
  void append_token(std::int64_t* slots);

  // Kept for the last block size asked for; safe to call from several threads.
  std::shared_ptr<const Blocks> blocks(std::int64_t rows) const;

 private:
  std::vector<Segment> segments_;
  std::vector<std::int32_t> pages_, row_pos_;
  std::int64_t page_size_ = 0, num_pages_needed_ = 0;
  double pairs_ = 0;
  mutable std::mutex mutex_;
  mutable std::array<std::shared_ptr<const Blocks>, 2> blocks_;  // those made last
};

struct AttentionOptions {
  double scale = 1.0;
  double softcap = 0.0;     // 0: none
  std::int64_t window = 0;  // 0: none
};

// Keys and values [pages, kv_heads, page_size, head_dim], of the type of the tensors that meet
// them, or for float32 bfloat16, rounded to nearest, ties to even, or int8: integers times the
// scale of their token and head, float32 [pages, kv_heads, page_size]; keys are rotated before
// (kv_quant.h).
struct KvCache {
  TensorView k, v;
  const TensorView *k_scale = nullptr, *v_scale = nullptr;  // where it is int8
};

void segment_attention(const TensorView& q, const KvCache& cache, const SegmentPlan& plan,
                       const AttentionOptions& options, const TensorView& out,
                       const TensorView& lse, int threads);

void merge_states(const TensorView& outs, const TensorView& lses, const TensorView& out,
                  const TensorView& lse, int threads);

void kv_write(const TensorView& k, const TensorView& v, const KvCache& cache,
              const TensorView& slots, int threads);

// What a pass over decoding rows reads and a token changes: see fastsi/ops/advance_rows/buffers.py.
struct RowBuffers {
  TensorView ids, moving, row_pos, kv_len, span_ends, live, grows_with;
};

// Stores the tokens drawn at last[slots], and makes the buffers those of the next token.
void advance_rows(const TensorView& token, const TensorView& slots, const TensorView& last,
                  const RowBuffers& rows);

struct SampleParams {
  TensorView temperature, top_k, top_p, min_p, key, position;
};

struct LogitAdjust {
  TensorView indptr, token_ids, bias, count, in_prompt, repetition, presence, frequency;
};

struct SampledTokens {
  TensorView token, logprob, logprob_full, kept_mass;
  const TensorView* logprob_raw = nullptr;  // where it is wanted
};

struct TopLogprobs {
  TensorView token_ids, logprobs, rank;
};

// The likeliest tokens of rows, as many as token_ids has columns, and the ranks of given tokens.
void top_logprobs(const TensorView& logits, const TensorView& tokens, const TensorView* row_index,
                  const TopLogprobs& result, int threads);

// Weights of a linear layer in panels of columns, as the kernels of one instruction set read them:
// data as linear_packed_shape says, [panels, steps, width], zeros where it is padding: a step is
// one input of float32, or two of bfloat16, whose values lie side by side for every column, and
// rows are then rounded to bfloat16 too. n counts the output features of all weights laid side by
// side; a pair's second half multiplies the activated first half. `bytes`, of float32: as
// linear_bytes says of all weights, or more; some kernels store no others. They give a product in
// fewer, and other, operations.
struct LinearWeights {
  TensorView data;
  std::int64_t n = 0, k = 0;
  bool pair = false;
  int bytes = 4;
};

enum class Activation : int { none = 0, silu = 1, gelu = 2, gelu_tanh = 3 };
inline constexpr int kNumActivations = 4;

// What follows the product, in this order: + bias, activation (pair: activation times second half),
// + residual. Null: none. `row_index`: output row r comes from x[row_index[r]]; null: from x[r].
struct LinearEpilogue {
  const TensorView *bias = nullptr, *residual = nullptr, *row_index = nullptr;
  Activation activation = Activation::none;
};

// Of the instruction set in force; dtype: float32 or bfloat16; bytes as in LinearWeights.
std::array<std::int64_t, 3> linear_packed_shape(std::int64_t n, std::int64_t k, bool pair,
                                                DType dtype, int bytes = 4);

// Bytes of a float32, 2 to 4 from the highest, that are not 0 in all weights.
int linear_bytes(const TensorView& weight, int threads);

// Copies weight [features, k], of the packed type, to or from the features [first, first +
// features) of `packed`.
void linear_pack(const TensorView& weight, const LinearWeights& packed, std::int64_t first,
                 int threads);
void linear_unpack(const LinearWeights& packed, std::int64_t first, const TensorView& weight,
                   int threads);

// out may be the residual, but may not overlap x.
void linear(const TensorView& x, const LinearWeights& weights, const LinearEpilogue& after,
            const TensorView& out, int threads);

// Weights in int8: data uint8 [linear_int8_panels(n, pair) * 16 * (k filled up to 64)], and for
// each of the panels' 16 columns scale float32 and sum int32; with step scales, both for every
// step of 64 inputs. The layout stands in csrc/cpu/linear_int8.h; panels of a pair alternate.
struct LinearInt8Weights {
  TensorView data, scale, sum;
  std::int64_t n = 0, k = 0;
  bool pair = false, step_scales = false;
};

// Whether the instruction set in force takes rows of 7 bits and scales per 64 inputs, of rows and
// weights (AVX2 without VNNI), instead of 8 bits with one scale. Weights packed for one form serve
// no other.
bool linear_int8_step_scales();

std::int64_t linear_int8_panels(std::int64_t n, bool pair);

// Quantises weight [features, k] into the features [first, first + features) of `packed`.
void linear_int8_pack(const TensorView& weight, const LinearInt8Weights& packed, std::int64_t first,
                      int threads);

// As `linear`, with rows quantised on the fly. Every instruction set of one form gives the same
// bits.
void linear_int8(const TensorView& x, const LinearInt8Weights& weights, const LinearEpilogue& after,
                 const TensorView& out, int threads);

// `row_index` and `adjust` may be null. A row without a usable logit gets token -1.
void sample_tokens(const TensorView& logits, const SampleParams& params,
                   const TensorView* row_index, const LogitAdjust* adjust,
                   const SampledTokens& result, int threads);

// x, out [R, H]; weight [H]. With a residual [R, H]: residual += x first, and that is normalised.
void rms_norm(const TensorView& x, const TensorView& weight, double eps, const TensorView* residual,
              const TensorView& out, int threads);

struct RopeTables {
  TensorView cos, sin;  // [R, rotary]
};
struct RopeNorms {
  const TensorView *q, *k;  // [head_dim] or null
  double eps;
};

// q [R, q_heads, head_dim] is rotated in place, k and v [R, kv_heads, head_dim] go to the cache.
void rope_kv_write(const TensorView& q, const TensorView& k, const TensorView& v,
                   const RopeTables& tables, const RopeNorms& norms, const KvCache& cache,
                   const TensorView& slots, int threads);

// out [R, N] = activation(gate) * up.
void act_mul(const TensorView& gate, const TensorView& up, Activation activation,
             const TensorView& out, int threads);

}  // namespace fastsi
