// Twin of fastsi/vote/reversed.py.
#include <algorithm>
#include <initializer_list>

#include "rules.h"
#include "text.h"

namespace fastsi::vote {
namespace {

constexpr std::size_t kMaxWord = 24;  // characters

// A mark after its answer: position of the blank before "is", and whether it only says "correct".
struct Reversed {
  std::size_t at;
  bool praise;
};

bool takes(std::string_view text, std::size_t* at, std::initializer_list<std::string_view> words) {
  for (const std::string_view word : words) {
    if (!starts_at_any_case(text, *at, word)) continue;
    *at += word.size();
    return true;
  }
  return false;
}

// Whether a reversed mark follows the blank at `at`.
bool reversed_at(std::string_view text, std::size_t at, Reversed* mark) {
  std::size_t end = at + 1;
  if (!takes(text, &end, {"is "})) return false;
  *mark = {at, false};
  if (takes(text, &end, {"the ", "my ", "our "})) {
    takes(text, &end, {"final ", "correct ", "right ", "best "});
    if (!takes(text, &end, {"answer", "option", "choice"})) return false;
  } else {
    mark->praise = takes(text, &end, {"correct", "right"});
    if (!mark->praise) return false;
  }
  return !is_alpha(char_at(text, end));
}

// The word before the blanks before `at`; empty at the start of a sentence, "?" if it is none.
std::string word_before(std::string_view text, std::size_t at) {
  std::size_t end = at;
  bool new_line = false;
  for (int blanks = 0; blanks < 8 && end > 0 && space_before(text, end); ++blanks) {
    end -= bytes_before(text, end);
    new_line |= text[end] == '\n';
  }
  if (end == 0 || new_line || std::string_view(".:;!?,*").find(text[end - 1]) != kNone) return {};
  std::string word;
  while (end > 0 && word.size() < kMaxWord && is_alpha(text[end - 1])) {
    word.insert(word.begin(), lower(text[--end]));
  }
  return word.empty() ? "?" : word;
}

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

Status key_before(std::string_view text, const Reversed& mark, std::string* key) {
  std::size_t begin = mark.at;
  for (std::size_t size = 0; begin > 0 && size < kMaxWord && !space_before(text, begin); ++size) {
    begin -= bytes_before(text, begin);
  }
  if (begin > 0 && !space_before(text, begin)) return Status::none;
  const Status status = key_of_answer(text.substr(begin, mark.at - begin), key);
  if (status != Status::key) return status;
  if (is_text(*key)) return Status::none;
  const bool is_letter = key->compare(0, 7, "choice:") == 0;
  if (!is_letter) return mark.praise ? Status::none : status;
  const std::string lead = word_before(text, begin);
  const bool named = text[begin] == '(' || is_one_of(lead, {"option", "choice"});
  const bool begins = is_one_of(
      lead, {"", "option", "choice", "letter", "so", "thus", "therefore", "hence", "then", "that"});
  return named || (begins && !mark.praise) ? status : Status::none;
}

}  // namespace

Status reversed_announced(std::string_view text, std::string* key) {
  LastMarks marks;
  Reversed mark{};
  for (std::size_t at = find_char(text, ' ', 0); at != kNone; at = find_char(text, ' ', at + 1)) {
    if (reversed_at(text, at, &mark)) marks.add(at);
  }
  Status status = Status::none;
  for (std::size_t i = 0; i < marks.size() && status == Status::none; ++i) {
    reversed_at(text, marks.from_last(i), &mark);
    status = key_before(text, mark, key);
  }
  return status;
}

}  // namespace fastsi::vote
