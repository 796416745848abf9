#include <algorithm>
#include <iterator>

#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr std::string_view kOpaque[] = {
    "pi",       "sqrt",       "root",  "log",    "ln",      "sin",      "cos",       "tan",
    "exp",      "mod",        "plus",  "minus",  "squared", "cubed",    "factorial", "choose",
    "divided",  "multiplied", "or",    "dozen",  "dozens",  "hundreds", "thousands", "millions",
    "billions", "trillions",  "lakhs", "crores", "point",   "over",
};
constexpr std::string_view kEnds[] = {
    "in",    "on",    "at",   "for",  "after", "before", "because", "since", "when",
    "while", "as",    "with", "so",   "that",  "which",  "who",     "than",  "per",
    "each",  "every", "if",   "from", "of",    "but",    "not",     "and",   "&",
};
constexpr std::string_view kUnitLetters = "mgshlLJNWVKCFA";
constexpr std::size_t kMaxWords = 40;

template <std::size_t Size>
bool is_one_of(std::string_view name, const std::string_view (&names)[Size]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_opaque(std::string_view lower_word) {
  return is_one_of(lower_word, kOpaque) || part_of(lower_word) > 0 ||
         plural_part_of(lower_word) > 0 || scale_of(lower_word) >= 0;
}

bool is_alpha_byte(char c) { return is_alpha(c) || static_cast<unsigned char>(c) >= 0x80; }

bool is_plain_word(std::string_view word) {
  if (!is_alpha(char_at(word, 0))) return false;
  return std::all_of(word.begin(), word.end(), [](char c) { return is_alpha(c) || has("'.-", c); });
}

// cm^2, m/s, kg*m/s^2: a single letter must be the symbol of a unit.
bool is_unit(std::string_view word, bool in_text) {
  for (std::size_t at = 0;; ++at) {
    const std::size_t end = letters_end(word, at);
    if (end == at) return false;
    if (end == at + 1 && !in_text && !has(kUnitLetters, word[at])) return false;
    at = end;
    std::size_t power = skip(word, skip(word, at, '^'), '-');
    if (char_at(word, power) >= '1' && char_at(word, power) <= '4') at = power + 1;
    if (at == word.size()) return true;
    if (word[at] != '/' && word[at] != '*') return false;
  }
}

// Whether a word starts another number, so that the first one is not the whole answer.
bool is_quantity(std::string_view word) {
  if (word.empty()) return false;
  return word == "a" || word == "an" || has("0123456789.+-\\", word[0]) ||
         words_prefix(word).has_value();
}

bool is_year(std::string_view word) {
  return word.size() >= 4 && (word[0] == '1' || word[0] == '2') && is_digit(word[1]) &&
         is_digit(word[2]) && is_digit(word[3]);
}

using WordList = std::vector<std::string_view>;

// A single letter is a unit right after the number, or an article before another word.
bool stands_alone(char letter, const WordList& words, std::size_t at) {
  if (at == 0 && has(kUnitLetters, letter)) return true;
  if (has("CFK", letter) && at > 0 && words[at - 1] == "degrees") return true;
  return has("aI", letter) && at + 1 < words.size();
}

WordList split(std::string_view text) {
  WordList words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

bool words_drop_out(const WordList& words) {
  for (std::size_t at = 0; at < words.size() && at < kMaxWords; ++at) {
    const std::string_view word = words[at], bare = trim(word, ",.;:()!?'\"");
    const std::string name = lowered(bare);
    const std::string_view following = at + 1 < words.size() ? words[at + 1] : "";
    if (at > 0 && (name == "squared" || name == "cubed")) continue;
    if (is_opaque(name)) return false;
    if (is_one_of(name, kEnds)) {
      return (name == "in" && is_year(following)) || !is_quantity(following);
    }
    if (is_quantity(word) && name != "a" && name != "an" && name != "one") return false;
    if (bare.size() == 1) {
      if (!stands_alone(bare[0], words, at)) return false;
    } else if (!is_plain_word(bare) && !is_unit(bare, false)) {
      return false;
    }
    if (has(",;:", word.back()) && !following.empty()) return !is_quantity(following);
  }
  return true;
}

// "m / s" as one word.
std::string with_joined_units(std::string_view tail) {
  std::string out;
  for (const char sign : {'/', '*'}) {
    const std::string_view from = sign == '/' ? tail : std::string_view(out);
    std::string joined;
    for (std::size_t at = 0; at < from.size();) {
      const bool match =
          from[at] == ' ' && char_at(from, at + 1) == sign && char_at(from, at + 2) == ' ';
      joined.push_back(match ? sign : from[at]);
      at += match ? 3 : 1;
    }
    out = std::move(joined);
  }
  return out;
}

bool ends_word(std::string_view text, std::size_t at) { return !is_word(char_at(text, at)); }

// ", (since ...)" without another bracket.
bool is_bracketed_remark(std::string_view tail) {
  std::size_t at = skip(tail, 0, ',');
  if (!starts_at(tail, at, " (") || tail.back() != ')') return false;
  at += 2;
  const std::string_view inside = tail.substr(at, tail.size() - at - 1);
  if (inside.find_first_of("()") != kNone || starts_with(inside, "mod")) return false;
  return !(starts_with(inside, "or") && ends_word(inside, 2)) &&
         !(starts_with(inside, "and") && ends_word(inside, 3));
}

bool is_remark(std::string_view tail) {
  std::size_t at = 0;
  if (has(",;:", tail[0])) {
    at = 1;
  } else if (starts_with(tail, " -")) {
    at = 2;
  }
  if (at == 0 || char_at(tail, at) != ' ') return false;
  ++at;
  if (starts_at(tail, at, "and") && ends_word(tail, at + 3)) return false;
  if (starts_at(tail, at, "or") && ends_word(tail, at + 2)) return false;
  return is_alpha(char_at(tail, at)) && is_alpha(char_at(tail, at + 1));
}

}  // namespace

bool drops_out(std::string_view tail) {
  if (tail.empty()) return true;
  std::string joined;
  const auto join = [&](std::string_view text) -> std::string_view {
    if (text.find(" / ") == kNone && text.find(" * ") == kNone) return text;
    joined = with_joined_units(text);
    return joined;
  };
  if (tail[0] == kUnit) {
    const WordList words = split(join(tail.substr(1)));
    return std::all_of(words.begin(), words.end(), [](std::string_view word) {
      return is_plain_word(word) || is_unit(word, true);
    });
  }
  if (has(",;: ", tail[0]) && (is_bracketed_remark(tail) || is_remark(tail))) return true;
  if (tail[0] == '-') {
    return tail.size() > 2 && is_alpha_byte(tail[1]) && is_alpha_byte(tail[2]) &&
           words_drop_out(split(tail.substr(1)));
  }
  return tail[0] == ' ' && words_drop_out(split(join(tail)));
}

}  // namespace fastsi::vote
