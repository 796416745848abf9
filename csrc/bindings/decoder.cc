// Python face of fastsi/decoder.h. Views do not own memory: the Python side keeps the tensors.
#include "fastsi/decoder.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>

#include "bindings.h"

namespace py = pybind11;

namespace fastsi {

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
  py::class_<Decoder>(m, "Decoder")
      .def(py::init<std::optional<TensorView>, std::vector<DecoderLayer>, DecoderNorm,
                    DecoderLinear>())
      .def("forward", [](const Decoder& decoder, const std::optional<TensorView>& ids,
                         const TensorView& positions, const TensorView& keep, const TensorView& cos,
                         const TensorView& sin, std::vector<TensorView> k_caches,
                         std::vector<TensorView> v_caches, std::vector<TensorView> k_scales,
                         std::vector<TensorView> v_scales, const TensorView& slots,
                         const SegmentPlan& plan, const std::array<TensorView, 9>& scratch,
                         const TensorView& logits, int threads) {
        const auto& [hidden, own_cos, own_sin, normed, qkv, attended, lse, gated, kept] = scratch;
        const DecoderStep step{ids,
                               positions,
                               keep,
                               {cos, sin},
                               std::move(k_caches),
                               std::move(v_caches),
                               std::move(k_scales),
                               std::move(v_scales),
                               slots};
        const py::gil_scoped_release release;
        decoder.forward(step, plan,
                        {hidden, own_cos, own_sin, normed, qkv, attended, lse, gated, kept}, logits,
                        threads);
      });
}

}  // namespace fastsi
