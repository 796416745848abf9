// What every token id spells; fields as in fastsi.ops.TokenBytes.
#pragma once

#include "fastsi/tensor_view.h"

namespace fastsi {

struct TokenBytes {
  TensorView data, offsets, flags;
  bool strip_first_blank = false;
};

}  // namespace fastsi
