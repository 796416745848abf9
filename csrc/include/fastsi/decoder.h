// A pass of a decoder built like Llama in one call, from tokens to logits: the same
// functions, in the same order, as fastsi/engine/fused_decoder.py calls one by one, so the bits are
// the same.
#pragma once

#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "fastsi/match_stop.h"
#include "fastsi/ops.h"

namespace fastsi {

struct DecoderNorm {
  TensorView weight;
  double eps = 0;
};

struct DecoderLinear {
  std::variant<LinearWeights, LinearInt8Weights> weights;
  std::optional<TensorView> bias;
};

// Per head of queries and keys; both or neither, with one eps.
struct DecoderHeadNorms {
  TensorView q, k;
  double eps = 0;
};

// norm, attention over rotated heads, residual, norm, gated MLP, residual. `qkv` are the
// projections of queries, keys and values side by side, `gate_up` is a pair.
struct DecoderLayer {
  DecoderNorm before;
  DecoderLinear qkv;
  std::optional<DecoderHeadNorms> head_norms;
  AttentionOptions attention;
  DecoderLinear output;
  DecoderNorm between;
  DecoderLinear gate_up;
  Activation activation = Activation::none;
  DecoderLinear down;
};

// What changes from step to step, for R rows, of which the L rows `keep` (int64) get logits.
// Without ids (int64 [R]) the scratch holds embedded tokens. positions (int64 [R]) are rows of the
// tables [positions, rotary]; caches are one per layer.
struct DecoderStep {
  std::optional<TensorView> ids;
  TensorView positions, keep;
  RopeTables tables;
  std::vector<TensorView> k_caches, v_caches;
  std::vector<TensorView> k_scales, v_scales;  // empty unless the caches are int8
  TensorView slots;
};

// Float32 memory, each [R, columns] and contiguous: hidden and normed H, cos and sin as the tables,
// qkv as many as its features, attended and lse for the queries' elements and heads, gated half of
// the pair's features; and kept [L, H].
struct DecoderScratch {
  TensorView hidden, cos, sin, normed, qkv, attended, lse, gated, kept;
};

// Where texts may end besides at a token: as the arguments of `match_stop`.
struct StopSearch {
  TensorView slots;
  TokenBytes table;
  StopRules rules;
  StopState state;
  TensorView hit;
};

// Up to N steps of the same R paths, each of which gets a token per step.
struct DecodeRun {
  SampleParams params;             // [R]
  SampledTokens result;            // [N, R]
  TensorView end_indptr, end_ids;  // int64, CSR over rows: tokens that end a row's path
  std::optional<StopSearch> search;
  std::optional<TopLogprobs> top;  // [N, R, C], ranks [N, R]
  double seconds = 0;              // no step begins after so many
};

struct DecodeOutcome {
  std::int64_t steps;   // tokens that each path got
  double draw_seconds;  // time not spent in passes
};

// The views point to memory that the caller keeps alive as long as this object is used.
class Decoder {
 public:
  // embedding: [vocabulary, H] float32 or bfloat16, or nothing if no step has ids.
  Decoder(std::optional<TensorView> embedding, std::vector<DecoderLayer> layers, DecoderNorm norm,
          DecoderLinear head)
      : embedding_(embedding), layers_(std::move(layers)), norm_(norm), head_(std::move(head)) {}

  // logits [L, vocabulary]. Throws std::invalid_argument if a view does not fit; every function
  // called checks its own.
  void forward(const DecoderStep& step, const SegmentPlan& plan, const DecoderScratch& scratch,
               const TensorView& logits, int threads) const;

  // Steps from `step`, which has ids and keeps all rows: forward, a draw for each row, and what
  // makes the next step of that: ids, positions, slots, the draws' positions and the plan are moved
  // on. Ends with the step after which a path may end, or whose draw failed (-1). The bits are
  // those of single calls.
  DecodeOutcome decode(const DecoderStep& step, SegmentPlan& plan, const DecoderScratch& scratch,
                       const TensorView& logits, const DecodeRun& run, int threads) const;

 private:
  std::optional<TensorView> embedding_;
  std::vector<DecoderLayer> layers_;
  DecoderNorm norm_;
  DecoderLinear head_;
};

}  // namespace fastsi
