// Stop strings and completed answers in the bytes of growing texts. The rules of completed answers
// are defined in fastsi/ops/match_stop/answers.py.
#pragma once

#include <cstdint>
#include <string_view>

#include "fastsi/tensor_view.h"
#include "fastsi/token_bytes.h"

namespace fastsi {

// Bytes, up to the one that completes an answer, that the rules look at.
inline constexpr std::int64_t kAnswerWindow = 256;

// Where the first answer ends that is completed at byte `begin` or later; -1: none is.
// `thinking`: whether the text begins inside <think>.
std::int64_t first_answer(std::string_view text, std::int64_t begin, bool thinking);

// CSR over classes of rows (`class_indptr`) of stop strings (`string_indptr`, `string_bytes`), and
// per class whether completed answers are looked for, and whether special tokens are in the text.
struct StopRules {
  TensorView class_indptr, string_indptr, string_bytes, answers, special;
};

// Per slot: the class of its rules (-1: none), the last bytes of its text, how many those are, and
// whether the text is inside <think>.
struct StopState {
  TensorView rule, tail, length, thinking;
};

// Appends token r to the text of slots[r]; hit[r] is 1 where that completes a stop string or an
// answer, else 0. Tokens that the table lacks spell nothing.
void match_stop(const TensorView& tokens, const TensorView& slots, const TokenBytes& table,
                const StopRules& rules, const StopState& state, const TensorView& hit);

}  // namespace fastsi
