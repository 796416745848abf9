#include <array>

#include "reading.h"

namespace fastsi::vote {
namespace {

struct Entry {
  std::string_view name;
  int value;
};

template <std::size_t Size>
int find(const Entry (&table)[Size], std::string_view name) {
  for (const Entry& entry : table) {
    if (entry.name == name) return entry.value;
  }
  return -1;
}

constexpr Entry kOnes[] = {
    {"zero", 0},     {"one", 1},      {"two", 2},        {"three", 3},     {"four", 4},
    {"five", 5},     {"six", 6},      {"seven", 7},      {"eight", 8},     {"nine", 9},
    {"ten", 10},     {"eleven", 11},  {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14},
    {"fifteen", 15}, {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},
};
constexpr Entry kTens[] = {
    {"twenty", 20}, {"thirty", 30},  {"forty", 40},  {"fifty", 50},
    {"sixty", 60},  {"seventy", 70}, {"eighty", 80}, {"ninety", 90},
};
constexpr Entry kScales[] = {
    {"hundred", 2}, {"thousand", 3}, {"lakh", 5},      {"million", 6},
    {"crore", 7},   {"billion", 9},  {"trillion", 12}, {"quadrillion", 15},
};
constexpr Entry kParts[] = {
    {"half", 2},        {"third", 3},         {"fourth", 4},          {"fifth", 5},
    {"sixth", 6},       {"seventh", 7},       {"eighth", 8},          {"ninth", 9},
    {"tenth", 10},      {"eleventh", 11},     {"twelfth", 12},        {"thirteenth", 13},
    {"fourteenth", 14}, {"fifteenth", 15},    {"sixteenth", 16},      {"seventeenth", 17},
    {"eighteenth", 18}, {"nineteenth", 19},   {"twentieth", 20},      {"quarter", 4},
    {"hundredth", 100}, {"thousandth", 1000}, {"millionth", 1000000},
};

constexpr int kMaxWords = 24;
constexpr std::size_t kLongestWord = 12;  // of the tables; a longer one is in none

// The words at the start of a text, in lower case, and where they end.
class Words {
 public:
  explicit Words(std::string_view text) {
    std::size_t at = 0;
    while (count_ < kMaxWords) {
      const std::size_t end = letters_end(text, at);
      if (end == at) break;
      std::string& name = names_[count_];
      if (end - at <= kLongestWord) name = lowered(text.substr(at, end - at));
      if (count_ == 0 && !begins_number(name)) return;
      ends_[count_++] = end;
      at = end < text.size() && has(" -", text[end]) ? end + 1 : end;
      if (at == end) break;
    }
  }
  int count() const { return count_; }
  std::string_view operator[](int at) const {
    return at < count_ ? std::string_view(names_[at]) : std::string_view();
  }
  std::size_t end(int at) const { return ends_[at]; }

 private:
  static bool begins_number(std::string_view name) {
    if (name.empty() || !has("zotfsenhma", name[0])) return false;
    return find(kOnes, name) >= 0 || find(kTens, name) >= 0 || name == "minus" ||
           name == "negative" || name == "a" || name == "an" || name == "half";
  }

  std::array<std::string, kMaxWords> names_;
  std::array<std::size_t, kMaxWords> ends_{};
  int count_ = 0;
};

struct Found {
  Rational value;
  int end;  // index after the last word
};
struct Whole {
  std::int64_t value;
  int end;
};

bool is_article(std::string_view word) { return word == "a" || word == "an"; }
bool is_part(const Words& words, int at) {
  return part_of(words[at]) > 0 || plural_part_of(words[at]) > 0;
}

std::int64_t ten_to(int exponent) {
  std::int64_t power = 1;
  for (int i = 0; i < exponent; ++i) power *= 10;
  return power;
}

std::optional<Whole> below_hundred(const Words& words, int at) {
  const int ones = find(kOnes, words[at]);
  if (ones >= 0) return Whole{ones, at + 1};
  const int tens = find(kTens, words[at]);
  if (tens < 0) return {};
  const int rest = find(kOnes, words[at + 1]);
  return 0 < rest && rest < 10 ? Whole{tens + rest, at + 2} : Whole{tens, at + 1};
}

std::optional<Whole> below_thousand(const Words& words, int at) {
  auto found = is_article(words[at]) && scale_of(words[at + 1]) >= 0 ? Whole{1, at + 1}
                                                                     : below_hundred(words, at);
  if (!found || words[found->end] != "hundred" || found->value == 0) return found;
  const std::int64_t value = 100 * found->value;
  const int end = found->end + 1;
  const auto rest = below_hundred(words, end + (words[end] == "and"));
  if (!rest || is_part(words, rest->end)) return Whole{value, end};
  return Whole{value + rest->value, rest->end};
}

std::optional<Whole> whole_number(const Words& words, int at) {
  auto found = below_thousand(words, at);
  if (!found) return {};
  std::int64_t total = 0, last = 1000000000000000000;
  for (;;) {
    const auto [group, end] = *found;
    const int exponent = scale_of(words[end]);
    const std::int64_t scale = exponent < 0 ? 1 : ten_to(exponent);
    if (!(100 < scale && scale < last)) return Whole{total + group, end};
    total += group * scale;
    last = scale;
    const int next = end + 1;
    const auto following = below_thousand(words, next + (words[next] == "and"));
    if (!following || is_part(words, following->end)) return Whole{total, next};
    found = following;
  }
}

std::optional<Found> fraction(const Words& words, int at) {
  if (words[at] == "half") {
    const int scale = words[at + 1] == "a" ? scale_of(words[at + 2]) : -1;
    if (scale >= 0) return Found{reduced(ten_to(scale), 2), at + 3};
    return Found{{1, 2}, at + 1};
  }
  const int top = is_article(words[at]) ? 1 : find(kOnes, words[at]);
  const int bottom = top == 1 ? part_of(words[at + 1]) : plural_part_of(words[at + 1]);
  if (top <= 0 || bottom <= 0) return {};
  return Found{reduced(top, bottom), at + 2};
}

int digit_at(const Words& words, int at) {
  const int digit = find(kOnes, words[at]);
  return digit < 10 ? digit : -1;
}

std::optional<Found> read_words(const Words& words, int at) {
  const auto whole = whole_number(words, at);
  if (!whole) return fraction(words, at);
  const auto [value, end] = *whole;
  const int part = value == 1 ? part_of(words[end]) : plural_part_of(words[end]);
  if (part > 0) return Found{reduced(value, part), end + 1};
  if (words[end] == "and") {
    if (const auto rest = fraction(words, end + 1)) {
      const Int top = rest->value.top + Int{value} * rest->value.bottom;
      return Found{reduced(top, rest->value.bottom), rest->end};
    }
  }
  if (words[end] == "point" && digit_at(words, end + 1) >= 0) {
    Int top = value, bottom = 1;
    int next = end + 1;
    for (int digit; (digit = digit_at(words, next)) >= 0; ++next) {
      top = top * 10 + digit;
      bottom *= 10;
    }
    return Found{reduced(top, bottom), next};
  }
  return Found{{value, 1}, end};
}

}  // namespace

int scale_of(std::string_view word) {
  return !word.empty() && has("htlmcbq", word[0]) ? find(kScales, word) : -1;
}

int part_of(std::string_view word) { return word.size() < 4 ? -1 : find(kParts, word); }

int plural_part_of(std::string_view word) {
  if (word == "halves") return 2;
  if (word.empty() || word.back() != 's' || word == "halfs") return -1;
  return part_of(word.substr(0, word.size() - 1));
}

std::optional<Number> words_prefix(std::string_view text) {
  const Words words(text);
  if (words.count() == 0) return {};
  const bool negative = words[0] == "minus" || words[0] == "negative";
  auto found = read_words(words, negative);
  if (!found) return {};
  if (words[found->end] == "percent") ++found->end;
  return Number{negative ? negated(found->value) : found->value, words.end(found->end - 1)};
}

}  // namespace fastsi::vote
