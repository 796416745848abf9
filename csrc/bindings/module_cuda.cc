// Python face of the CUDA side: a module of its own, so that `_C` imports where CUDA is absent.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "fastsi/cuda.h"

// TensorView is the class of `_C`, which is imported first.
using fastsi::TensorView;

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "CUDA side of fastsi";
  m.def("cuda_available", [] { return fastsi::cuda::device_count() > 0; });
  m.def("device_count", &fastsi::cuda::device_count);
  m.def("device_name", &fastsi::cuda::device_name, pybind11::arg("device"));
  m.def("runtime_version", &fastsi::cuda::runtime_version);
  m.def(
      "match_stop",
      [](const TensorView& tokens, const TensorView& slots, const std::array<TensorView, 3>& table,
         const std::array<TensorView, 5>& rules, const std::array<TensorView, 4>& state,
         const TensorView& scratch, const TensorView& hit, std::uintptr_t stream) {
        fastsi::cuda::match_stop(tokens, slots, {table[0], table[1], table[2]},
                                 {rules[0], rules[1], rules[2], rules[3], rules[4]},
                                 {state[0], state[1], state[2], state[3]}, scratch, hit, stream);
      });
  m.def("read_path_keys",
        [](const TensorView& tokens, const TensorView& path_indptr,
           const std::array<TensorView, 3>& table, bool strip_first_blank,
           const TensorView& scratch, const std::array<TensorView, 5>& r, std::uintptr_t stream) {
          pybind11::gil_scoped_release release;
          fastsi::cuda::read_path_keys(tokens, path_indptr,
                                       {table[0], table[1], table[2], strip_first_blank}, scratch,
                                       {r[0], r[1], r[2], r[3], r[4]}, stream);
        });
}
