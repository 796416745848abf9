#include <cuda_runtime.h>

#include "fastsi/check.h"
#include "fastsi/cuda.h"

namespace fastsi::cuda {

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver or no device is an answer here, not an error to keep
    return 0;
  }
  return count;
}

std::string device_name(int device) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  if (status != cudaSuccess) cudaGetLastError();
  FASTSI_CHECK(status == cudaSuccess, "device ", device, ": ", cudaGetErrorString(status));
  return properties.name;
}

int runtime_version() {
  int version = 0;
  const cudaError_t status = cudaRuntimeGetVersion(&version);
  FASTSI_CHECK(status == cudaSuccess, "CUDA runtime: ", cudaGetErrorString(status));
  return version;
}

}  // namespace fastsi::cuda
