// What the CUDA runtime says about this machine, and the ops on it. Free of CUDA headers.
#pragma once

#include <cstdint>
#include <string>

#include "fastsi/match_stop.h"
#include "fastsi/tensor_view.h"
#include "fastsi/token_bytes.h"

namespace fastsi::cuda {

// Devices the driver offers; 0 without a driver.
int device_count();

// Throws std::invalid_argument if there is no such device.
std::string device_name(int device);

// Version of the runtime this was built with: 1000 * major + 10 * minor.
int runtime_version();

// Fields [N] over paths; numbers are those of DeviceStatus and DeviceKey.
struct PathKeys {
  TensorView status, kind;            // uint8
  TensorView numerator, denominator;  // int64; with kind, they count where the status is key
  TensorView bad_token;  // int64 [1]: lowered to the first place of an unknown token id
};

// Keys of the answers of token paths under the default options, on `stream` (a cudaStream_t). All
// tensors are on the current device: `tokens` int32 or int64 [T], `path_indptr` int64 [N + 1],
// rising within [0, T], `scratch` uint8 [warps, bytes]. A path is left to the host (its status)
// where vote_span_device.h does so, and where its text is longer than a row of `scratch`.
void read_path_keys(const TensorView& tokens, const TensorView& path_indptr,
                    const TokenBytes& table, const TensorView& scratch, const PathKeys& result,
                    std::uintptr_t stream);

// As fastsi::match_stop, on `stream`; all tensors are on the current device. Nothing is checked
// that stands in device memory: a row whose slot, rule or token is out of range is no hit.
// `scratch` uint8 [rows, bytes] takes the end of a text and a token; where it is too short, the row
// is a hit.
void match_stop(const TensorView& tokens, const TensorView& slots, const TokenBytes& table,
                const StopRules& rules, const StopState& state, const TensorView& scratch,
                const TensorView& hit, std::uintptr_t stream);

}  // namespace fastsi::cuda
