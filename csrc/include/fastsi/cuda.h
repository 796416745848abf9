// What the CUDA runtime says about this machine. Free of CUDA headers.
#pragma once

#include <string>

namespace fastsi::cuda {

// Devices the driver offers; 0 without a driver.
int device_count();

// Throws std::invalid_argument if there is no such device.
std::string device_name(int device);

// Version of the runtime this was built with: 1000 * major + 10 * minor.
int runtime_version();

}  // namespace fastsi::cuda
