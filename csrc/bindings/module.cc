// Python face of fastsi_core: converts, releases the GIL, calls. Python owns all memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "fastsi/isa.h"
#include "fastsi/match_stop.h"
#include "fastsi/ops.h"
#include "fastsi/parallel.h"
#include "fastsi/philox.h"

namespace py = pybind11;
using fastsi::TensorView;

namespace {

TensorView make_view(std::uintptr_t data, const py::tuple& shape, const py::tuple& stride,
                     int dtype) {
  TensorView view;
  FASTSI_CHECK(shape.size() == stride.size() && shape.size() <= fastsi::kMaxDims,
               "TensorView: at most ", fastsi::kMaxDims, " dimensions, one stride each");
  FASTSI_CHECK(0 <= dtype && dtype < fastsi::kNumDTypes, "TensorView: no dtype ", dtype);
  view.data = reinterpret_cast<void*>(data);
  view.dtype = static_cast<fastsi::DType>(dtype);
  view.dims = static_cast<int>(shape.size());
  for (int i = 0; i < view.dims; ++i) {
    view.shape[i] = shape[i].cast<std::int64_t>();
    view.stride[i] = stride[i].cast<std::int64_t>();
  }
  return view;
}

void bind_ops(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  using fastsi::AttentionOptions;
  using fastsi::LinearEpilogue;
  using fastsi::LinearInt8Weights;
  using fastsi::LinearWeights;
  using fastsi::SegmentPlan;
  using V = const TensorView&;
  py::class_<SegmentPlan>(m, "SegmentPlan")
      .def(py::init<V, V, V, V, V, V, V, V, V, V, std::int64_t>());
  m.def(
      "segment_attention",
      [](V q, V k_cache, V v_cache, const TensorView* k_scale, const TensorView* v_scale,
         const SegmentPlan& plan, double scale, double softcap, std::int64_t window, V out, V lse,
         int threads) {
        const AttentionOptions options{scale, softcap, window};
        fastsi::segment_attention(q, {k_cache, v_cache, k_scale, v_scale}, plan, options, out, lse,
                                  threads);
      },
      Release());
  py::class_<LinearWeights>(m, "LinearWeights")
      .def(py::init([](V data, std::int64_t n, std::int64_t k, bool pair, int bytes) {
        return LinearWeights{data, n, k, pair, bytes};
      }));
  m.def("linear_bytes", &fastsi::linear_bytes, Release());
  m.def("linear_packed_shape", [](std::int64_t n, std::int64_t k, bool pair, bool bf16, int bytes) {
    const auto dtype = bf16 ? fastsi::DType::bf16 : fastsi::DType::f32;
    return fastsi::linear_packed_shape(n, k, pair, dtype, bytes);
  });
  m.def("linear_pack", &fastsi::linear_pack, Release());
  m.def("linear_unpack", &fastsi::linear_unpack, Release());
  m.def(
      "linear",
      [](V x, const LinearWeights& weights, const TensorView* bias, const TensorView* residual,
         const TensorView* row_index, int activation, V out, int threads) {
        const LinearEpilogue after{bias, residual, row_index, fastsi::activation_of(activation)};
        fastsi::linear(x, weights, after, out, threads);
      },
      Release());
  py::class_<LinearInt8Weights>(m, "LinearInt8Weights")
      .def(py::init(
          [](V data, V scale, V sum, std::int64_t n, std::int64_t k, bool pair, bool step_scales) {
            return LinearInt8Weights{data, scale, sum, n, k, pair, step_scales};
          }));
  m.def("linear_int8_step_scales", &fastsi::linear_int8_step_scales);
  m.def("linear_int8_panels", &fastsi::linear_int8_panels);
  m.def("linear_int8_pack", &fastsi::linear_int8_pack, Release());
  m.def(
      "linear_int8",
      [](V x, const LinearInt8Weights& weights, const TensorView* bias, const TensorView* residual,
         const TensorView* row_index, int activation, V out, int threads) {
        const LinearEpilogue after{bias, residual, row_index, fastsi::activation_of(activation)};
        fastsi::linear_int8(x, weights, after, out, threads);
      },
      Release());
  m.def(
      "top_logprobs",
      [](V logits, V tokens, const TensorView* row_index, V token_ids, V logprobs, V rank,
         int threads) {
        fastsi::top_logprobs(logits, tokens, row_index, {token_ids, logprobs, rank}, threads);
      },
      Release());
  m.def("merge_states", &fastsi::merge_states, Release());
  m.def(
      "kv_write",
      [](V k, V v, V k_cache, V v_cache, const TensorView* k_scale, const TensorView* v_scale,
         V slots, int threads) {
        fastsi::kv_write(k, v, {k_cache, v_cache, k_scale, v_scale}, slots, threads);
      },
      Release());
  m.def(
      "advance_rows",
      [](V token, V slots, V last, const std::array<TensorView, 7>& rows) {
        fastsi::advance_rows(token, slots, last,
                             {rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6]});
      },
      Release());
  m.def(
      "rms_norm",
      [](V x, V weight, double eps, const TensorView* residual, V out, int threads) {
        fastsi::rms_norm(x, weight, eps, residual, out, threads);
      },
      Release());
  m.def(
      "rope_kv_write",
      [](V q, V k, V v, V cos, V sin, const TensorView* q_norm, const TensorView* k_norm,
         double eps, V k_cache, V v_cache, const TensorView* k_scale, const TensorView* v_scale,
         V slots, int threads) {
        fastsi::rope_kv_write(q, k, v, {cos, sin}, {q_norm, k_norm, eps},
                              {k_cache, v_cache, k_scale, v_scale}, slots, threads);
      },
      Release());
  m.def(
      "act_mul",
      [](V gate, V up, int activation, V out, int threads) {
        fastsi::act_mul(gate, up, fastsi::activation_of(activation), out, threads);
      },
      Release());
  m.def(
      "match_stop",
      [](V tokens, V slots, const std::array<TensorView, 3>& table,
         const std::array<TensorView, 5>& rules, const std::array<TensorView, 4>& state, V hit) {
        fastsi::match_stop(tokens, slots, {table[0], table[1], table[2]},
                           {rules[0], rules[1], rules[2], rules[3], rules[4]},
                           {state[0], state[1], state[2], state[3]}, hit);
      },
      Release());
  m.def("first_answer", &fastsi::first_answer);
  m.def(
      "sample_tokens",
      [](V logits, const std::array<TensorView, 6>& params, const TensorView* row_index,
         const std::optional<std::array<TensorView, 8>>& adjust,
         const std::array<TensorView, 4>& result, const TensorView* logprob_raw, int threads) {
        const auto& p = params;
        fastsi::LogitAdjust change;
        if (adjust) {
          const auto& a = *adjust;
          change = {a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]};
        }
        fastsi::sample_tokens(logits, {p[0], p[1], p[2], p[3], p[4], p[5]}, row_index,
                              adjust ? &change : nullptr,
                              {result[0], result[1], result[2], result[3], logprob_raw}, threads);
      },
      Release());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ kernels of fastsi; called through fastsi.ops";
  py::class_<TensorView>(m, "TensorView").def(py::init(&make_view));
  m.def("set_isa", &fastsi::set_isa, py::arg("name"));
  m.def("isa", [] { return fastsi::name_of(fastsi::isa()); });
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (auto isa : fastsi::kIsas) {
      if (fastsi::isa_available(isa)) names.emplace_back(fastsi::name_of(isa));
    }
    return names;
  });
  m.def("thread_pool", &fastsi::thread_pool_name);
  m.def("philox", &fastsi::philox, py::arg("counter"), py::arg("key"));
  m.def("uniform", &fastsi::uniform, py::arg("key"), py::arg("position"));
  bind_ops(m);
  fastsi::bind_decoder(m);
  fastsi::bind_vote(m);
}
