#include <algorithm>
#include <iterator>

#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr std::string_view kAbout[] = {
    "that ",     "is ",      "are ",        "was ",      "equals ",
    "equal to ", "exactly ", "precisely ",  "only ",     "just ",
    "about ",    "around ",  "roughly ",    "nearly ",   "approximately ",
    "approx ",   "approx. ", "a total of ", "in total ", "at ",
    "usd ",      "rs ",      "inr ",        "eur ",      "gbp ",
};
constexpr std::string_view kVerbs[] = {
    "is",   "are",   "was",  "were",  "be",     "equals", "has",    "have",   "had",
    "make", "makes", "made", "earn",  "earns",  "earned", "cost",   "costs",  "get",
    "gets", "got",   "need", "needs", "needed", "spend",  "spends", "spent",  "pay",
    "pays", "paid",  "take", "takes", "took",   "left",   "sold",   "bought", "total",
};
constexpr std::string_view kAdverbs[] = {"about ",         "exactly ", "only ",  "just ",
                                         "approximately ", "now ",     "still ", "a total of "};
constexpr std::string_view kChanges[] = {"not",   "least", "most",    "more", "less",
                                         "fewer", "than",  "between", "from", "over",
                                         "under", "if",    "never"};
constexpr int kMaxWords = 12;

template <std::size_t Size>
bool is_one_of(std::string_view name, const std::string_view (&names)[Size]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::size_t about_end(std::string_view span) {
  std::size_t at = 0;
  for (;;) {
    std::size_t end = at;
    const char c = char_at(span, at);
    if (c == '=' || c == '~') {
      end = skip(span, at + 1, ' ');
    } else if (starts_at_any_case(span, at, "rs.")) {
      end = skip(span, at + 3, ' ');
    } else if (has("tiaepojrnug", lower(c)) && c != '\0') {
      for (const std::string_view word : kAbout) {
        if (starts_at_any_case(span, at, word)) end = at + word.size();
      }
    }
    if (end == at) return at;
    at = end;
  }
}

bool is_alnum(char c) { return is_alpha(c) || is_digit(c); }

// x, x_1, f(x), \theta.
bool is_symbol(std::string_view text) {
  if (char_at(text, 0) == '\\') {
    return text.size() > 1 &&
           std::all_of(text.begin() + 1, text.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  }
  if (!is_alpha(char_at(text, 0))) return false;
  std::size_t at = 1;
  if (char_at(text, 1) == '_') {
    at = 2;
    while (is_alnum(char_at(text, at))) ++at;
    if (at == 2) return false;
  }
  if (char_at(text, at) == '(' && is_alnum(char_at(text, at + 1)) && char_at(text, at + 2) == ')') {
    at += 3;
  }
  return at == text.size();
}

// Up to six words of two letters or more.
bool is_words(std::string_view text) {
  std::size_t at = 0;
  for (int words = 1; words <= 6; ++words) {
    const std::size_t end = letters_end(text, at);
    if (end < at + 2) return false;
    if (end == text.size()) return true;
    if (text[end] != ' ') return false;
    at = end + 1;
  }
  return false;
}

bool is_name(std::string_view side) {
  if (is_symbol(side) || is_words(side)) return true;
  if (side[0] != '(' || !is_enclosed(side)) return false;
  side = side.substr(1, side.size() - 2);
  for (;;) {
    const std::size_t comma = std::min(side.find(','), side.size());
    if (!is_symbol(trim(side.substr(0, comma)))) return false;
    if (comma == side.size()) return true;
    side.remove_prefix(comma + 1);
  }
}

bool is_arithmetic(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    if (is_digit(text[at]) || has(".,%() +*/-", text[at])) {
      ++at;
      continue;
    }
    const std::size_t end = letters_end(text, at);
    if (end < at + 2) return false;
    at = end;
  }
  return !text.empty();
}

Key read_equation(Reading& reading, std::string_view span, const Part& part) {
  std::vector<std::string_view> sides;
  for (;;) {
    const std::size_t sign = std::min(span.find('='), span.size());
    sides.push_back(trim(span.substr(0, sign)));
    if (sign == span.size()) break;
    span.remove_prefix(sign + 1);
  }
  const std::string_view last = sides.back();
  sides.pop_back();
  if (last.empty() || has("<>", last[0])) return {};
  if (std::any_of(sides.begin(), sides.end(), [](std::string_view s) { return s.empty(); }) ||
      has("<>!", sides.back().back())) {
    return {};
  }
  if (is_name(sides[0])) sides.erase(sides.begin());
  if (!std::all_of(sides.begin(), sides.end(), is_arithmetic)) return {};
  const Key key = part(last);
  if (sides.empty() || (key && !is_text(*key))) return key;
  // "18 = 9 * 2", "18 = x": the number is on the left.
  if (!is_arithmetic(last) && !is_symbol(last)) return {};
  return read_number_phrase(reading, sides[0]);
}

// End of "x \in ", "the answer is ", "the point " at the start; kNone where there is none.
std::size_t introduction_end(std::string_view span) {
  std::size_t at = skip(span, 1, ' ');
  if (is_alpha(char_at(span, 0)) && starts_at(span, at, "\\in") &&
      !is_alpha(char_at(span, at + 3))) {
    at = skip(span, at + 3, ' ');
    if (at < span.size()) return at;
  }
  const auto skip_one = [&](std::size_t from, auto... words) {
    for (const std::string_view word : {std::string_view(words)...}) {
      if (starts_at_any_case(span, from, word)) return from + word.size();
    }
    return from;
  };
  at = skip_one(skip_one(0, "the ", "my ", "our "), "final ", "correct ");
  if (starts_at_any_case(span, at, "answer")) {
    at += 6;
    const std::size_t verb = skip_one(at, " is", ":");
    const std::size_t end = skip(span, verb, ' ');
    if (verb > at && end < span.size()) return end;
  }
  at = skip_one(0, "the ");
  const std::size_t noun = skip_one(at, "points ", "point ", "coordinates ", "ordered pair ",
                                    "pair ", "vector ", "interval ", "set ");
  return noun > at && noun < span.size() && has("([{", span[noun]) ? noun : kNone;
}

// End of "Tom has exactly " before a number; `*change` tells whether a word changes the value.
std::size_t sentence_end(std::string_view span, bool* change) {
  std::size_t at = 0;
  for (int words = 0; words <= kMaxWords; ++words) {
    if (!is_alpha(char_at(span, at))) return kNone;
    std::size_t end = at;
    while (is_alpha(char_at(span, end)) || (end < span.size() && has("'-", span[end]))) ++end;
    if (char_at(span, end) != ' ') return kNone;
    const std::string_view word = span.substr(at, end - at);
    if (words > 0 && is_one_of(word, kVerbs)) {
      std::size_t number = end + 1;
      for (bool more = true; more;) {
        more = false;
        for (const std::string_view adverb : kAdverbs) {
          if (!starts_at(span, number, adverb)) continue;
          number += adverb.size();
          more = true;
        }
      }
      if (number < span.size() && (is_digit(span[number]) || has("-+.", span[number]))) {
        return number;
      }
    }
    *change = *change || is_one_of(lowered(word), kChanges);
    at = end + 1;
  }
  return kNone;
}

}  // namespace

Key read_number_phrase(Reading& reading, std::string_view span) {
  span.remove_prefix(about_end(span));
  Key key = read_date(span);
  if (!key) key = read_time(span);
  if (key) return key;
  auto found = number_prefix(reading, span);
  if (!found) found = words_prefix(span);
  if (!found || !drops_out(span.substr(found->end))) return {};
  return "num:" + body_of(found->value);
}

Key read_phrase(Reading& reading, std::string_view span, const Part& part) {
  if (span.find('=') != kNone) return read_equation(reading, span, part);
  const std::size_t start = introduction_end(span);
  if (start != kNone) return part(span.substr(start));
  bool change = false;
  const std::size_t number = sentence_end(span, &change);
  if (number == kNone || change) return {};
  return read_number_phrase(reading, span.substr(number));
}

}  // namespace fastsi::vote
