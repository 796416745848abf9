#include "reading.h"

namespace fastsi::vote {
namespace {

bool ends_word(std::string_view text, std::size_t at) { return !is_word(char_at(text, at)); }

bool is_letter(char c) { return lower(c) >= 'a' && lower(c) <= 'j'; }
bool is_capital(char c) { return c >= 'A' && c <= 'J'; }

// The end of the word at `at` if it is `word`, in any case, and ends there; else kNone.
std::size_t word_end(std::string_view text, std::size_t at, std::string_view word) {
  const std::size_t end = at + word.size();
  return starts_at_any_case(text, at, word) && ends_word(text, end) ? end : kNone;
}

std::size_t skip_word(std::string_view text, std::size_t at, std::string_view word) {
  return starts_at_any_case(text, at, word) ? at + word.size() : at;
}

// "the option ", "answer ": the position after it, and whether a letter may follow freely.
std::size_t named_end(std::string_view span, bool* is_free) {
  std::size_t at = skip_word(span, 0, "the ");
  for (const std::string_view word : {"correct ", "right ", "best "}) {
    const std::size_t end = skip_word(span, at, word);
    if (end == at) continue;
    at = end;
    break;
  }
  for (const std::string_view word : {"option ", "choice ", "letter ", "answer "}) {
    if (!starts_at_any_case(span, at, word)) continue;
    *is_free = word != "answer ";
    return at + word.size();
  }
  return 0;
}

struct Letter {
  std::size_t at = kNone;  // where it stands
  std::size_t end = 0;     // where its mark ends
  bool in_brackets = false;
};

bool is_praised(std::string_view span, std::size_t at) {
  if (!starts_at(span, at, " is ")) return false;
  at += 4;
  if (starts_at(span, at, "the ")) at += 4;
  for (const std::string_view word : {"correct", "right", "best", "true", "answer"}) {
    if (starts_at(span, at, word)) return true;
  }
  return false;
}

bool is_explained(std::string_view span, std::size_t at) {
  at = skip(span, at, ',');
  if (char_at(span, at) != ' ') return false;
  for (const std::string_view word : {"because", "since", "as", "which"}) {
    if (starts_at(span, at + 1, word) && ends_word(span, at + 1 + word.size())) return true;
  }
  return false;
}

Letter marked_letter(std::string_view span, std::size_t at) {
  const auto ends_with = [&](std::size_t end, std::string_view set) {
    return end == span.size() || has(set, span[end]);
  };
  const char open = char_at(span, at);
  if (open == '(' || open == '[') {
    const std::size_t letter = skip(span, at + 1, ' ');
    if (is_letter(char_at(span, letter))) {
      const std::size_t close = skip(span, letter + 1, ' ');
      if (has(")]", char_at(span, close)) && close < span.size() && ends_with(close + 1, " .:,")) {
        return {letter, close + 1, true};
      }
    }
    return {};
  }
  if (!is_letter(open)) return {};
  const char next = char_at(span, at + 1);
  if (next == ')' && ends_with(at + 2, " ")) return {at, at + 2, false};
  if (is_capital(open)) {
    if ((next == '.' || next == ':') && char_at(span, at + 2) == ' ') return {at, at + 2, false};
    if (is_praised(span, at + 1) || is_explained(span, at + 1)) return {at, at + 1, false};
  }
  if (at + 1 == span.size() && (is_capital(open) || open <= 'd')) return {at, at + 1, false};
  return {};
}

// Whether another choice follows: ", C", "and option (C)".
bool another_follows(std::string_view span, std::size_t at) {
  at = skip(span, at, ' ');
  std::size_t end = kNone;
  if (has(",;&", char_at(span, at)) && at < span.size()) end = at + 1;
  if (end == kNone) end = word_end(span, at, "and");
  if (end == kNone) end = word_end(span, at, "or");
  if (end == kNone) return false;
  at = skip(span, end, ' ');
  for (const std::string_view word : {"option ", "choice ", "answer "}) {
    const std::size_t after = skip_word(span, at, word);
    if (after == at) continue;
    at = after;
    break;
  }
  if (has("([", char_at(span, at)) && at < span.size()) ++at;
  return is_letter(char_at(span, at)) && ends_word(span, at + 1);
}

// Whether an operator or another choice follows the one that ends at `at`.
bool goes_on(std::string_view span, std::size_t at, bool in_brackets) {
  const std::size_t sign = skip(span, at, ' ');
  if (sign < span.size() && has("*/^+=", span[sign])) return true;
  if (char_at(span, at) == '-') return true;
  if (!in_brackets && sign > at && char_at(span, sign) == '-') return true;
  if (another_follows(span, at)) return true;
  for (std::size_t open = span.find('(', at); open != kNone; open = span.find('(', open + 1)) {
    if (is_letter(char_at(span, open + 1)) && char_at(span, open + 2) == ')') return true;
  }
  return false;
}

Key choice_key(char letter) { return std::string("choice:") + lower(letter); }

}  // namespace

Key read_bool(std::string_view span) {
  if (!has("yYtTnNfF", span[0])) return {};
  for (const std::string_view word : {"yes", "true", "no", "false"}) {
    if (!starts_at_any_case(span, 0, word)) continue;
    const std::size_t at = word.size();
    const char next = char_at(span, at);
    bool ends = at == span.size() || has(",;:!", next) || starts_at(span, at, " - ");
    if (next == '.') ends = !is_digit(char_at(span, skip(span, at + 1, ' ')));
    if (char_at(span, skip(span, at, ' ')) == '(') ends = true;
    if (next == ' ') {
      for (const std::string_view who : {"he", "she", "it", "they", "we", "you", "i"}) {
        ends = ends || word_end(span, at + 1, who) != kNone;
      }
    }
    if (!ends) return {};
    return std::string(word == "yes" || word == "true" ? "bool:yes" : "bool:no");
  }
  return {};
}

Key read_choice(std::string_view span) {
  bool is_free = false;
  const std::size_t at = named_end(span, &is_free);
  Letter found = marked_letter(span, at);
  if (found.at == kNone && is_free && is_letter(char_at(span, at)) &&
      (at + 1 == span.size() || has(" .:,", span[at + 1]))) {
    found = {at, at + 1, false};
  }
  if (found.at != kNone && !goes_on(span, found.end, found.in_brackets)) {
    return choice_key(span[found.at]);
  }
  const std::size_t size = span.size();
  if (size > 4 && has("-+$.0123456789", span[0]) && span[size - 1] == ')' &&
      is_capital(span[size - 2]) && span[size - 3] == '(' && span[size - 4] == ' ') {
    return choice_key(span[size - 2]);
  }
  return {};
}

}  // namespace fastsi::vote
