// Parts of the module _C, one function per source file.
#pragma once

#include <pybind11/pybind11.h>

#include "fastsi/ops.h"

namespace fastsi {

// Throws std::invalid_argument for a number that is no activation.
inline Activation activation_of(int number) {
  FASTSI_CHECK(0 <= number && number < kNumActivations, "activation: no number ", number);
  return static_cast<Activation>(number);
}

void bind_decoder(pybind11::module_& m);
void bind_vote(pybind11::module_& m);

}  // namespace fastsi
