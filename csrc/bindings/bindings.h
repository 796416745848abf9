// Parts of the module _C, one function per source file.
#pragma once

#include <pybind11/pybind11.h>

namespace fastsi {

void bind_vote(pybind11::module_& m);

}  // namespace fastsi
