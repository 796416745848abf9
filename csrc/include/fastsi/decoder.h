// A pass of a decoder built like Llama in one call, from embedded tokens to logits: the same
// functions, in the same order, as fastsi/engine/fused_decoder.py calls one by one, so the bits are
// the same.
#pragma once

#include <optional>
#include <utility>
#include <variant>
#include <vector>

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

// What changes from step to step, for R rows, of which the L rows `keep` (int64) get logits. hidden
// [R, H] is overwritten; caches are one per layer.
struct DecoderStep {
  TensorView hidden, keep;
  RopeTables tables;
  std::vector<TensorView> k_caches, v_caches;
  std::vector<TensorView> k_scales, v_scales;  // empty unless the caches are int8
  TensorView slots;
};

// Float32 memory that every layer writes anew, each [R, columns] and contiguous: normed H, qkv as
// many as its features, attended and lse for the queries' elements and heads, gated half of the
// pair's features; and kept [L, H].
struct DecoderScratch {
  TensorView normed, qkv, attended, lse, gated, kept;
};

// The views point to memory that the caller keeps alive as long as this object is used.
class Decoder {
 public:
  Decoder(std::vector<DecoderLayer> layers, DecoderNorm norm, DecoderLinear head)
      : layers_(std::move(layers)), norm_(norm), head_(std::move(head)) {}

  // logits [L, vocabulary]. Throws std::invalid_argument if a view does not fit; every function
  // called checks its own.
  void forward(const DecoderStep& step, const SegmentPlan& plan, const DecoderScratch& scratch,
               const TensorView& logits, int threads) const;

 private:
  std::vector<DecoderLayer> layers_;
  DecoderNorm norm_;
  DecoderLinear head_;
};

}  // namespace fastsi
