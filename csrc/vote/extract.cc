// Twin of fastsi/vote/extract.py, which lists the rules in order.
#include <algorithm>

#include "reading.h"
#include "rules.h"
#include "text.h"

namespace fastsi::vote {
namespace {

constexpr std::size_t kMaxBare = 64;  // characters
constexpr std::string_view kWideColon = u8"\uff1a";

// Whether "the answer to " or the like leads to `at`.
bool follows_preposition(std::string_view text, std::size_t at) {
  for (const std::string_view word : {"for ", "to ", "of ", "in ", "the "}) {
    if (at >= word.size() && starts_at(text, at - word.size(), word)) return true;
  }
  return false;
}

// Begin of the first place where `mark`, perhaps with a number, and a colon follow a blank.
std::size_t find_run_on(std::string_view text, std::string_view mark) {
  for (std::size_t at = find_word(text, mark, 0); at != kNone; at = find_word(text, mark, at + 1)) {
    std::size_t begin = at, end = at + mark.size();
    while (begin > 0 && (text[begin - 1] == '#' || text[begin - 1] == '*')) --begin;
    if (!space_before(text, begin) || follows_preposition(text, begin)) continue;
    std::size_t digits = end + (char_at(text, end) == ' ');
    digits += char_at(text, digits) == '#';
    const std::size_t first_digit = digits;
    while (digits < first_digit + 4 && is_digit(char_at(text, digits))) ++digits;
    if (digits > first_digit) end = digits;
    while (char_at(text, end) == '*') ++end;
    if (char_at(text, end) == ':' || starts_at(text, end, kWideColon)) return begin;
  }
  return kNone;
}

// The response without its thinking and without an invented next question.
std::string_view own_answer(std::string_view text, const std::vector<std::string>& run_on) {
  static constexpr std::string_view kThought = "</think>";
  for (std::size_t at = find_word(text, kThought, 0); at != kNone;
       at = find_word(text, kThought, 0)) {
    text = text.substr(at + kThought.size());
  }
  text = strip_left(text);
  std::size_t end = kNone;
  for (const std::string& mark : run_on) end = std::min(end, find_run_on(text, mark));
  return text.substr(0, end);
}

// --- tags, hashes -------------------------------------------------------------------------------

struct Tag {
  bool opens;
  std::size_t begin, end;
};

std::vector<Tag> find_tags(std::string_view text) {
  std::vector<Tag> tags;
  for (std::size_t at = find_char(text, '<', 0); at != kNone; at = find_char(text, '<', at + 1)) {
    const bool closes = char_at(text, at + 1) == '/';
    const std::size_t name = at + 1 + closes;
    if (starts_at_any_case(text, name, "answer>")) tags.push_back({!closes, at, name + 7});
  }
  return tags;
}

Status tag(std::string_view text, std::string* key) {
  const std::vector<Tag> tags = find_tags(text);
  std::size_t tried = 0;
  for (std::size_t i = tags.size(); i-- > 0 && tried < kMaxCandidates;) {
    if (!tags[i].opens) continue;
    std::string_view span = text.substr(tags[i].end);
    if (i + 1 == tags.size()) {  // truncated
      span = strip_left(span);
      span = span.substr(0, find_char(span, '\n', 0));
    } else if (!tags[i + 1].opens) {
      span = span.substr(0, tags[i + 1].begin - tags[i].end);
    } else {
      continue;
    }
    ++tried;
    Status status = announced(span, key);
    if (status == Status::none) status = key_of_answer(span, key);
    if (status != Status::none) return status;
  }
  return Status::none;
}

// Position of a line end, heading or special token, or the end.
std::size_t hash_end(std::string_view text, std::size_t at) {
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n' || (c == '#' && char_at(text, at + 1) == '#')) return at;
    if (c != '<') continue;
    for (const std::string_view token : {"|", u8"\uff5c", "/", "eos>", "end"}) {
      if (starts_at(text, at + 1, token)) return at;
    }
  }
  return text.size();
}

// Without "The final answer is:".
std::string_view without_announcement(std::string_view text) {
  std::size_t at = 0;
  if (starts_at_any_case(text, at, "the ")) at += 4;
  if (starts_at_any_case(text, at, "final ")) at += 6;
  if (!starts_at_any_case(text, at, "answer")) return text;
  at += 6;
  if (starts_at_any_case(text, at, " is")) at += 3;
  if (char_at(text, at) == ':') ++at;
  while (char_at(text, at) == ' ') ++at;
  return text.substr(at);
}

Status hash(std::string_view text, std::string* key) {
  std::size_t at = find_word(text, "####", 0);
  for (std::size_t tried = 0; at != kNone && tried < kMaxCandidates; ++tried) {
    if (at == 0 || space_before(text, at)) {
      std::size_t start = text.find_first_not_of("# \t", at);
      if (start == kNone) start = text.size();
      const std::string_view content = text.substr(start, hash_end(text, start) - start);
      const Status status = key_of_answer(without_announcement(content), key);
      if (status == Status::host || (status == Status::key && !is_text(*key))) return status;
    }
    at = find_char(text, '\n', at);
    if (at != kNone) at = find_word(text, "####", at);
  }
  return Status::none;
}

// --- bare answers, kinds, numbers ---------------------------------------------------------------

bool is_one_of(char c, std::string_view set) { return set.find(c) != kNone; }

// Whether a line is a number, with its name before it or a unit of up to three words after it.
bool is_bare_number(std::string_view line) {
  std::size_t at = 0;
  while (at < line.size() && is_one_of(line[at], "-+([{*_ \t\r\v\f")) ++at;
  if (is_alpha(char_at(line, at))) {
    at += 1 + (char_at(line, at + 1) == ' ');
    if (char_at(line, at) != '=') return false;
    at += 1 + (char_at(line, at + 1) == ' ');
  }
  for (int odd = 0; odd < 3 && at < line.size() && !is_alpha(line[at]) && !is_digit(line[at]);
       ++odd) {
    at += char_bytes(line, at);
  }
  if (!is_digit(char_at(line, at))) return false;
  while (at < line.size() && !is_alpha(line[at])) ++at;
  for (int words = 0; words < 3 && is_alpha(char_at(line, at)); ++words) {
    while (is_alpha(char_at(line, at))) ++at;
    while (at < line.size() && (is_digit(line[at]) || is_one_of(line[at], " .*!/^"))) ++at;
  }
  return at == line.size();
}

bool starts_with_yes_or_no(std::string_view text, std::size_t at, std::size_t* end) {
  for (const std::string_view word : {"yes", "no", "true", "false"}) {
    if (!starts_at_any_case(text, at, word)) continue;
    *end = at + word.size();
    return true;
  }
  return false;
}

// Whether a line is nothing but a choice in brackets, or yes or no.
bool is_last_line(std::string_view line) {
  std::size_t at = 0;
  while (at < line.size() && is_one_of(line[at], "*_ ")) ++at;
  const char letter = lower(char_at(line, at + 1));
  if (char_at(line, at) == '(' && letter >= 'a' && letter <= 'j' && char_at(line, at + 2) == ')') {
    at += 3;
  } else if (!starts_with_yes_or_no(line, at, &at)) {
    return false;
  }
  while (at < line.size() && is_one_of(line[at], ".*_ ")) ++at;
  return at == line.size();
}

Status bare(std::string_view text, std::string* key) {
  const std::string_view line = strip(text);
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  const bool is_short =
      line.size() <= 4 * kMaxBare && find_char(line, '\n', 0) == kNone &&
      line.size() - static_cast<std::size_t>(std::count_if(line.begin(), line.end(), continues)) <=
          kMaxBare;
  if (is_short) {
    const Status status = key_of_answer(line, key);
    if (status == Status::host) return status;
    if (status == Status::key && !is_text(*key)) {
      if (key->compare(0, 4, "num:") != 0 || is_bare_number(line)) return status;
      const std::string_view plain = strip_ends(line);
      const auto words = words_prefix(plain);
      if (words && words->end == plain.size()) return status;
    }
  }
  const std::size_t last_line = line.rfind('\n') + 1;  // kNone + 1 is 0
  return is_last_line(line.substr(last_line)) ? key_of_answer(line.substr(last_line), key)
                                              : Status::none;
}

Status last_number(std::string_view text, std::string* key) {
  std::string_view last;
  for (std::size_t at = 0; at < text.size();) {
    const bool glued = at > 0 && (is_word(text[at - 1]) || text[at - 1] == '.');
    const std::size_t begin = at;
    if (text[at] == '-') {
      ++at;
    } else if (starts_at(text, at, u8"\u2212")) {
      at += 3;
    }
    at += char_at(text, at) == '$';
    if (glued || !is_digit(char_at(text, at))) {
      at = begin + 1;
      continue;
    }
    while (is_digit(char_at(text, at)) || char_at(text, at) == ',') ++at;
    for (const char sign : {'.', '/'}) {
      if (char_at(text, at) != sign || !is_digit(char_at(text, at + 1))) continue;
      ++at;
      while (is_digit(char_at(text, at))) ++at;
    }
    if (is_digit(char_at(text, at)) || is_alpha(char_at(text, at))) {
      at = begin + 1;
      continue;
    }
    last = text.substr(begin, at - begin);
  }
  while (!last.empty() && last.back() == ',') last.remove_suffix(1);
  return last.empty() ? Status::none : key_of_answer(last, key);
}

Status automatic(std::string_view text, std::string* key) {
  for (const auto rule : {boxed, tag, hash, announced, bare}) {
    const Status status = rule(text, key);
    if (status != Status::none) return status;
  }
  return Status::none;
}

// What `automatic` finds if it is of that kind; none else.
Status of_kind(std::string_view text, std::string_view kind, std::string* key) {
  const Status status = automatic(text, key);
  return status == Status::key && key->compare(0, kind.size(), kind) != 0 ? Status::none : status;
}

// Letter of the choice in brackets, or in bold, at `at`; 0 where there is none.
char any_choice(std::string_view text, std::size_t at, std::size_t* end) {
  const auto letter_at = [&](std::size_t i) {
    const char c = char_at(text, i);
    return c >= 'A' && c <= 'J' ? lower(c) : '\0';
  };
  if (char_at(text, at) == '(') {
    if (at > 0 && is_word(text[at - 1])) return 0;
    *end = at + 3;
    return char_at(text, at + 2) == ')' ? letter_at(at + 1) : '\0';
  }
  if (!starts_at(text, at, "**")) return 0;
  std::size_t next = at + 2 + (char_at(text, at + 2) == '(');
  const char letter = letter_at(next++);
  next += next < text.size() && is_one_of(text[next], ").:");
  *end = next + 2;
  return starts_at(text, next, "**") ? letter : '\0';
}

Status choice(std::string_view text, std::string* key) {
  const Status status = of_kind(text, "choice:", key);
  if (status != Status::none) return status;
  char last = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::size_t end = at;
    const char letter = any_choice(text, at, &end);
    if (letter == 0) continue;
    last = letter;
    at = end - 1;
  }
  if (last == 0) return Status::none;
  key->assign("choice:").push_back(last);
  return Status::key;
}

Status yes_no(std::string_view text, std::string* key) {
  const Status status = of_kind(text, "bool:", key);
  if (status != Status::none) return status;
  std::size_t at = 0;
  for (std::size_t bytes = 1; bytes != 0; at += bytes) {
    const char c = char_at(text, at);
    bytes = c == '*' || c == '"' || c == '\'' ? 1 : space_at(text, at);
  }
  std::size_t end = at;
  if (!starts_with_yes_or_no(text, at, &end)) return Status::none;
  if (is_alpha(char_at(text, end)) || char_at(text, end) == '-') return Status::none;
  return key_of_answer(text.substr(at, end - at), key);
}

Status by_extractor(Extractor extractor, std::string_view text, std::string* key) {
  switch (extractor) {
    case Extractor::boxed:
      return boxed(text, key);
    case Extractor::tag:
      return tag(text, key);
    case Extractor::hash:
      return hash(text, key);
    case Extractor::phrase:
      return announced(text, key);
    case Extractor::choice:
      return choice(text, key);
    case Extractor::yes_no:
      return yes_no(text, key);
    case Extractor::last_number:
      return last_number(text, key);
    default:
      return automatic(text, key);
  }
}

}  // namespace

Status answer_key(std::string_view text, const ExtractOptions& options, std::string* key) {
  std::string repaired;
  text = own_answer(valid_utf8(text, &repaired), options.run_on);
  const Status status = by_extractor(options.extractor, text, key);
  return status == Status::none && options.last_number ? last_number(text, key) : status;
}

}  // namespace fastsi::vote
