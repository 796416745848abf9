// Answers of responses: twins of the Python reference in fastsi/vote, which is the definition.
// No torch, no Python, no std::regex, linear time, bounded recursion; nothing throws on its input.
//
// Text is UTF-8. Bytes that are none (a path may end inside a character) are read as Python's
// bytes.decode("utf-8", "replace") reads them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "fastsi/vote_device.h"

namespace fastsi::vote {

enum class Status {
  key,   // found
  none,  // the text gives no answer: it abstains
  host,  // not decided here: the caller asks the Python reference (rare Unicode, huge numbers)
};

// How the answer is found; in the order of fastsi.vote.EXTRACTORS.
enum class Extractor { automatic, boxed, tag, hash, phrase, choice, yes_no, last_number };

struct ExtractOptions {
  Extractor extractor = Extractor::automatic;
  bool last_number = false;  // fall back to the last number of the text
  std::vector<std::string> run_on = {"Question", "Q", "Problem"};
};

// Canonical key of a bare answer. Twin of fastsi.vote.key.key_of_answer; `key` is written only
// where the status is Status::key.
Status key_of_answer(std::string_view text, std::string* key);

// The canonical key that a kernel gave in two words.
std::string name_of(const DeviceKey& key);

// Canonical key of the answer that a response gives. Twin of fastsi.vote.extract.answer_key.
Status answer_key(std::string_view text, const ExtractOptions& options, std::string* key);

// `text`, or a copy in `storage` in which U+FFFD stands for every maximal run of bytes that is no
// character.
std::string_view valid_utf8(std::string_view text, std::string* storage);

}  // namespace fastsi::vote
