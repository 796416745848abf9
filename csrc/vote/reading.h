// Readers of a cleaned answer span, each the twin of the module of fastsi/vote that has its name.
//
// A reader returns its result or nothing, as the Python reference does. What C++ does not decide
// (numbers beyond 128 bits, letters whose case or composition needs Unicode's tables) sets
// Reading::host, and then no result counts.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text.h"

namespace fastsi::vote {

using Key = std::optional<std::string>;

struct Reading {
  bool host = false;
};

inline constexpr char kUnit = '\x01';  // before a unit that was written in \text{}
inline constexpr int kMaxDepth = 6;    // of nested brackets
inline constexpr std::size_t kMaxSpan = 4096;

// --- numbers ------------------------------------------------------------------------------------

__extension__ typedef __int128 Int;

// In lowest terms, bottom positive.
struct Rational {
  Int top = 0;
  Int bottom = 1;
};

struct Number {
  Rational value;
  std::size_t end = 0;  // after the number's last character
};

// top / bottom in lowest terms; bottom is not 0.
Rational reduced(Int top, Int bottom);
Rational negated(const Rational& value);
// Nothing, and reading.host set, where the result passes 128 bits.
std::optional<Rational> sum(Reading& reading, const Rational& a, const Rational& b);
std::optional<Rational> product(Reading& reading, const Rational& a, const Rational& b);
std::optional<Rational> quotient(Reading& reading, const Rational& a, const Rational& b);
// Negative, 0 or positive, as a - b is.
int compare(Reading& reading, const Rational& a, const Rational& b);
std::string body_of(const Rational& value);

std::optional<Number> number_prefix(Reading& reading, std::string_view text);
std::optional<Rational> read_number(Reading& reading, std::string_view text);
std::optional<Number> words_prefix(std::string_view text);

// Powers of ten of "hundred", "million", ...; denominators of "third" and of "thirds"; or -1.
int scale_of(std::string_view lower_word);
int part_of(std::string_view lower_word);
int plural_part_of(std::string_view lower_word);

// --- the other kinds ----------------------------------------------------------------------------

// A reader of the parts of an answer: read_key, one bracket deeper.
using Part = std::function<Key(std::string_view)>;

// False leaves the text to the host.
bool clean(std::string_view text, std::string* span);
bool fold_unicode(std::string_view text, std::string* plain);
std::string unlatex(std::string text);
// Without the blanks, quotes and closing punctuation around a span.
std::string_view strip_ends(std::string_view text);

bool drops_out(std::string_view tail);

Key read_bool(std::string_view span);
Key read_choice(std::string_view span);
Key read_date(std::string_view text);
Key read_time(std::string_view text);
Key read_number_phrase(Reading& reading, std::string_view span);
Key read_phrase(Reading& reading, std::string_view span, const Part& part);

bool is_enclosed(std::string_view text);
Key read_bracketed(Reading& reading, std::string_view text, const Part& part);
Key read_union(std::string_view text, const Part& part);
Key read_matrix(std::string_view text, const Part& part);
Key read_plus_minus(Reading& reading, std::string_view text);
Key read_ratio(Reading& reading, std::string_view text);
Key read_range(Reading& reading, std::string_view text);
Key read_list(Reading& reading, std::string_view text, const Part& part);

Key opaque(std::string_view span);

// --- small tools --------------------------------------------------------------------------------

inline bool starts_with(std::string_view text, std::string_view word) {
  return text.substr(0, word.size()) == word;
}
inline bool has(std::string_view set, char c) { return set.find(c) != kNone; }
inline std::size_t skip(std::string_view text, std::size_t at, char c) {
  return char_at(text, at) == c ? at + 1 : at;
}
inline std::size_t digits_end(std::string_view text, std::size_t at) {
  while (is_digit(char_at(text, at))) ++at;
  return at;
}
inline std::size_t letters_end(std::string_view text, std::size_t at) {
  while (is_alpha(char_at(text, at))) ++at;
  return at;
}
inline std::string_view trim(std::string_view text, std::string_view set = " ") {
  const std::size_t begin = text.find_first_not_of(set);
  if (begin == kNone) return {};
  return text.substr(begin, text.find_last_not_of(set) - begin + 1);
}
inline std::string lowered(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = lower(c);
  return result;
}
inline std::size_t count_chars(std::string_view text) {
  std::size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}
std::string render(std::string_view key);

}  // namespace fastsi::vote
