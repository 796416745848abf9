// Python face of fastsi/decoder.h. Views do not own memory: the Python side keeps the tensors.
#include "fastsi/decoder.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>

#include "bindings.h"

namespace py = pybind11;

namespace fastsi {
namespace {

// In the order of DecoderScratch.
using Scratch = std::array<TensorView, 9>;

DecoderScratch scratch_of(const Scratch& scratch) {
  const auto& [hidden, cos, sin, normed, qkv, attended, lse, gated, kept] = scratch;
  return {hidden, cos, sin, normed, qkv, attended, lse, gated, kept};
}

}  // namespace

void bind_decoder(py::module_& m) {
  py::class_<DecoderNorm>(m, "DecoderNorm").def(py::init([](const TensorView& weight, double eps) {
    return DecoderNorm{weight, eps};
  }));
  py::class_<DecoderHeadNorms>(m, "DecoderHeadNorms")
      .def(py::init([](const TensorView& q, const TensorView& k, double eps) {
        return DecoderHeadNorms{q, k, eps};
      }));
  py::class_<DecoderLinear>(m, "DecoderLinear")
      .def(py::init([](std::variant<LinearWeights, LinearInt8Weights> weights,
                       std::optional<TensorView> bias) {
        return DecoderLinear{std::move(weights), std::move(bias)};
      }));
  py::class_<DecoderLayer>(m, "DecoderLayer")
      .def(py::init([](const DecoderNorm& before, const DecoderLinear& qkv,
                       const std::optional<DecoderHeadNorms>& head_norms, double scale,
                       double softcap, std::int64_t window, const DecoderLinear& output,
                       const DecoderNorm& between, const DecoderLinear& gate_up, int activation,
                       const DecoderLinear& down) {
        return DecoderLayer{before, qkv,     head_norms, {scale, softcap, window},
                            output, between, gate_up,    activation_of(activation),
                            down};
      }));
  py::class_<DecoderStep>(m, "DecoderStep")
      .def(py::init([](const std::optional<TensorView>& ids, const TensorView& positions,
                       const TensorView& keep, const TensorView& cos, const TensorView& sin,
                       std::vector<TensorView> k_caches, std::vector<TensorView> v_caches,
                       std::vector<TensorView> k_scales, std::vector<TensorView> v_scales,
                       const TensorView& slots) {
        return DecoderStep{ids,
                           positions,
                           keep,
                           {cos, sin},
                           std::move(k_caches),
                           std::move(v_caches),
                           std::move(k_scales),
                           std::move(v_scales),
                           slots};
      }));
  py::class_<StopSearch>(m, "StopSearch")
      .def(py::init([](const TensorView& slots, const std::array<TensorView, 3>& table,
                       const std::array<TensorView, 5>& rules,
                       const std::array<TensorView, 4>& state, const TensorView& hit) {
        return StopSearch{slots,
                          {table[0], table[1], table[2]},
                          {rules[0], rules[1], rules[2], rules[3], rules[4]},
                          {state[0], state[1], state[2], state[3]},
                          hit};
      }));
  py::class_<Decoder>(m, "Decoder")
      .def(py::init<std::optional<TensorView>, std::vector<DecoderLayer>, DecoderNorm,
                    DecoderLinear>())
      .def("forward",
           [](const Decoder& decoder, const DecoderStep& step, const SegmentPlan& plan,
              const Scratch& scratch, const TensorView& logits, int threads) {
             const py::gil_scoped_release release;
             decoder.forward(step, plan, scratch_of(scratch), logits, threads);
           })
      .def("decode",
           [](const Decoder& decoder, const DecoderStep& step, SegmentPlan& plan,
              const Scratch& scratch, const TensorView& logits,
              const std::array<TensorView, 6>& params, const std::array<TensorView, 4>& result,
              const TensorView* logprob_raw, const std::array<TensorView, 2>& ends,
              const std::optional<StopSearch>& search,
              const std::optional<std::array<TensorView, 3>>& top, double seconds, int threads) {
             const auto& p = params;
             std::optional<TopLogprobs> likeliest;
             if (top) likeliest = TopLogprobs{(*top)[0], (*top)[1], (*top)[2]};
             const DecodeRun run{{p[0], p[1], p[2], p[3], p[4], p[5]},
                                 {result[0], result[1], result[2], result[3], logprob_raw},
                                 ends[0],
                                 ends[1],
                                 search,
                                 likeliest,
                                 seconds};
             const py::gil_scoped_release release;
             const DecodeOutcome outcome =
                 decoder.decode(step, plan, scratch_of(scratch), logits, run, threads);
             return std::pair(outcome.steps, outcome.draw_seconds);
           });
}

}  // namespace fastsi
