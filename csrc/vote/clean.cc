#include <algorithm>

#include "reading.h"

namespace fastsi::vote {
namespace {

// A letter, digit or underscore; the letters beyond ASCII that come this far are letters.
bool is_word_byte(char c) { return is_word(c) || static_cast<unsigned char>(c) >= 0x80; }

// Whether a number stands at `at`: 5, -5, .5, with a blank before it.
bool is_amount(std::string_view text, std::size_t at) {
  at = skip(text, at, ' ');
  if (char_at(text, at) == '-' || char_at(text, at) == '+') ++at;
  return is_digit(char_at(text, skip(text, at, '.')));
}

// Where the country before a dollar sign at `dollar` begins: "US$", "A $".
std::size_t country_begin(std::string_view text, std::size_t dollar) {
  const std::size_t end = dollar > 0 && text[dollar - 1] == ' ' ? dollar - 1 : dollar;
  for (const std::string_view name : {"US", "CA", "AU", "HK", "NZ", "A", "C", "S", "R"}) {
    if (end < name.size()) continue;
    const std::size_t begin = end - name.size();
    const char before = begin > 0 ? text[begin - 1] : '\0';
    if (text.substr(begin, name.size()) != name || is_word_byte(before)) continue;
    // A single letter is a country only before an amount: "A$5"; in "$A$" it is a choice.
    if (name.size() == 1 && (before == '$' || !is_amount(text, dollar + 1))) continue;
    return begin;
  }
  return dollar;
}

std::string without_dollars(std::string_view text) {
  std::string out;
  std::size_t kept = 0;
  for (std::size_t at = text.find('$'); at != kNone; at = text.find('$', at + 1)) {
    const std::size_t begin = std::max(country_begin(text, at), kept);
    out.append(text.substr(kept, begin - kept));
    kept = at + 1;
  }
  return out.append(text.substr(kept));
}

// Without ** at the edge of a word and without backticks; other ** are powers.
std::string without_bold(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '*' && char_at(text, at + 1) == '*') {
      const char before = at > 0 ? text[at - 1] : '\0', after = char_at(text, at + 2);
      const bool opens = !(is_word_byte(before) || before == ')');
      const bool closes = !(is_word_byte(after) || after == '(');
      if (opens || closes) {
        at += 2;
        continue;
      }
    }
    if (c != '`') out.push_back(c);
    ++at;
  }
  std::size_t to = 0;
  for (std::size_t at = 0; at < out.size(); ++to) {
    const bool power = out[at] == '*' && char_at(out, at + 1) == '*';
    out[to] = power ? '^' : out[at];
    at += power ? 2 : 1;
  }
  out.resize(to);
  return out;
}

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

std::string with_single_blanks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (!is_blank(c)) {
      out.push_back(c);
    } else if (out.empty() || out.back() != ' ') {
      out.push_back(' ');
    }
  }
  return out;
}

}  // namespace

std::string_view strip_ends(std::string_view text) {
  for (;;) {
    const std::size_t before = text.size();
    text = trim(text, " \t\n\r\"'*_,;:?");
    const std::size_t size = text.size();
    if (size > 0 && text[size - 1] == '.' && !(size > 1 && text[size - 2] == '.')) {
      text.remove_suffix(1);
    }
    if (text.size() == before) return text;
  }
}

bool clean(std::string_view text, std::string* span) {
  std::string plain(text);
  if (std::any_of(text.begin(), text.end(),
                  [](char c) { return static_cast<unsigned char>(c) >= 0x80; }) &&
      !fold_unicode(text, &plain)) {
    return false;
  }
  // A unit mark in the text itself is only a control character.
  std::replace(plain.begin(), plain.end(), kUnit, ' ');
  if (plain.find_first_of("\\{") != kNone) plain = unlatex(std::move(plain));
  if (plain.find('$') != kNone) plain = without_dollars(plain);
  if (plain.find_first_of("*`") != kNone) plain = without_bold(plain);
  plain = with_single_blanks(plain);
  span->assign(strip_ends(plain));
  return true;
}

}  // namespace fastsi::vote
