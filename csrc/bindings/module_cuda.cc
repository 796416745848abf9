// Python face of the CUDA side: a module of its own, so that `_C` imports where CUDA is absent.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "fastsi/cuda.h"

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "CUDA side of fastsi";
  m.def("cuda_available", [] { return fastsi::cuda::device_count() > 0; });
  m.def("device_count", &fastsi::cuda::device_count);
  m.def("device_name", &fastsi::cuda::device_name, pybind11::arg("device"));
  m.def("runtime_version", &fastsi::cuda::runtime_version);
}
