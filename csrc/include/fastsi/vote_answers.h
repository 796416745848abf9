// The op vote_answers, in two steps: answers of token paths, and votes over them. Between them the
// caller finds the keys of the paths that were left to it. Contract: docs/design.md, "Voting".
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fastsi/tensor_view.h"
#include "fastsi/token_bytes.h"
#include "fastsi/vote.h"

namespace fastsi {

struct PathAnswers {
  std::vector<std::string> keys;  // distinct, in order of their first path
  // Paths that the Python reference must read, with their text (valid UTF-8); their id is -1.
  std::vector<std::pair<std::int64_t, std::string>> host;
};

// Writes int32 `key_id` [N]: index into the keys, or -1. `tokens` is int32 or int64, `path_indptr`
// int64 [N + 1].
PathAnswers read_path_answers(const TensorView& tokens, const TensorView& path_indptr,
                              const TokenBytes& table, const vote::ExtractOptions& options,
                              const TensorView& key_id, int threads);

struct VoteTensors {
  TensorView keep;                                        // uint8 [N]
  TensorView winner, votes, share, margin, entropy, tie;  // [G], as in AnswerVotes; tie is uint8
  TensorView answer_indptr;                               // int64 [G + 1]
  TensorView answer_key, answer_count, answer_weight;     // [N]: room for one answer per path
};

// Votes over key ids in [-1, num_keys). `logprobs` and `weights` are float64 [N] or null.
void tally_votes(const TensorView& key_id, std::int64_t num_keys, const TensorView& group_indptr,
                 const TensorView* logprobs, const TensorView* weights, std::int64_t min_lead,
                 double min_share, const VoteTensors& result);

}  // namespace fastsi
