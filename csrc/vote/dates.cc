#include <cstdio>

#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};

// Digits at `*at`, `least` to `most` of them, none beyond; their value, or -1.
int digits(std::string_view text, std::size_t* at, std::size_t least, std::size_t most) {
  const std::size_t end = digits_end(text, *at);
  if (end - *at < least || end - *at > most) return -1;
  int value = 0;
  for (; *at < end; ++*at) value = value * 10 + (text[*at] - '0');
  return value;
}

std::string two(int value) {
  std::string text = std::to_string(value);
  return text.size() < 2 ? "0" + text : text;
}

Key time_key(int hour, int minute, int second) {
  if (hour > 23 || minute > 59 || second > 59) return {};
  std::string key = "time:" + std::to_string(hour) + ":" + two(minute);
  if (second != 0) key += ":" + two(second);
  return key;
}

// "pm", " p.m.", " p. m": 'a' or 'p', or 0 where the rest of the text is none.
char half_of_day(std::string_view text, std::size_t at) {
  at = skip(text, at, ' ');
  const char half = lower(char_at(text, at));
  if (half != 'a' && half != 'p') return 0;
  at = skip(text, skip(text, at + 1, '.'), ' ');
  if (lower(char_at(text, at)) != 'm') return 0;
  return skip(text, at + 1, '.') == text.size() ? half : '\0';
}

Key date_key(int year, int month, int day) {
  if (month < 1 || month > 12 || day < 1 || day > 31) return {};
  if (year < 0) return "date:" + std::string(kMonths[month - 1]) + " " + std::to_string(day);
  std::string four = std::to_string(year);
  four.insert(0, 4 - four.size(), '0');
  return "date:" + four + "-" + two(month) + "-" + two(day);
}

// 1 to 12 for a month's name, its first three letters or "sept"; 0 for another word.
int month_of(std::string_view name) {
  for (int month = 0; month < 12; ++month) {
    const std::string full = lowered(kMonths[month]);
    const std::string word = lowered(name);
    if (word == full || word == full.substr(0, 3) || (month == 8 && word == "sept")) {
      return month + 1;
    }
  }
  return 0;
}

bool is_separator(char c) { return c == '-' || c == '/' || c == '.'; }

// 2020-05-06, 05/06/2020; `*is` tells whether the text has that form.
Key numeric_date(std::string_view text, bool* is) {
  std::size_t at = digits_end(text, 0);
  const bool iso = at == 4;
  if (!iso && (at < 1 || at > 2)) return {};
  at = 0;
  const int one = digits(text, &at, 1, 4);
  if (!is_separator(char_at(text, at))) return {};
  ++at;
  const int two = digits(text, &at, 1, 2);
  if (two < 0 || !is_separator(char_at(text, at))) return {};
  ++at;
  const int three = iso ? digits(text, &at, 1, 2) : digits(text, &at, 4, 4);
  if (three < 0 || at != text.size()) return {};
  *is = true;
  if (iso) return date_key(one, two, three);
  return one > 12 ? date_key(three, two, one) : date_key(three, one, two);
}

std::size_t after_word(std::string_view text, std::size_t at, std::string_view word) {
  return starts_at_any_case(text, at, word) ? at + word.size() : at;
}

// Day with or without its ending; -1 where there is none.
int day_at(std::string_view text, std::size_t* at) {
  const int day = digits(text, at, 1, 2);
  if (day < 0) return -1;
  for (const std::string_view ending : {"st", "nd", "rd", "th"}) {
    const std::size_t end = after_word(text, *at, ending);
    if (end == *at) continue;
    *at = end;
    break;
  }
  return day;
}

std::string_view name_at(std::string_view text, std::size_t* at) {
  const std::size_t end = letters_end(text, *at);
  const std::string_view name = text.substr(*at, end - *at);
  if (name.size() < 3 || name.size() > 9) return {};
  *at = skip(text, end, '.');
  return name;
}

// The year that ends the text, -1 where it ends without one, -2 where it goes on.
int year_at(std::string_view text, std::size_t at) {
  if (at == text.size()) return -1;
  if (text[at] == ',') {
    at = skip(text, at + 1, ' ');
  } else if (text[at] == ' ') {
    ++at;
  } else {
    return -2;
  }
  const int year = digits(text, &at, 4, 4);
  return year >= 0 && at == text.size() ? year : -2;
}

}  // namespace

Key read_time(std::string_view text) {
  const char first = char_at(text, 0);
  if (!is_digit(first)) {
    if (text.size() == 4 && starts_at_any_case(text, 0, "noon")) return time_key(12, 0, 0);
    if (text.size() == 8 && starts_at_any_case(text, 0, "midnight")) return time_key(0, 0, 0);
    return {};
  }
  std::size_t at = 0;
  int hour = digits(text, &at, 1, 2), fields[2] = {0, 0}, count = 0;
  if (hour < 0) return {};
  while (count < 2 && char_at(text, at) == ':') {
    std::size_t end = at + 1;
    const int field = digits(text, &end, 2, 2);
    if (field < 0) return {};
    fields[count++] = field;
    at = end;
  }
  if (at == text.size()) return count > 0 ? time_key(hour, fields[0], fields[1]) : Key();
  char half = half_of_day(text, at);
  if (half == 0) {
    const std::string words = lowered(text.substr(at));
    const bool midnight = words == " midnight";
    if (midnight || words == " noon") {
      if (hour != 12 || fields[0] != 0 || fields[1] != 0) return {};
      return time_key(midnight ? 0 : 12, 0, 0);
    }
    if (words == " o'clock") return time_key(hour, fields[0], fields[1]);
    if (words == " in the morning") half = 'a';
    if (words == " in the afternoon" || words == " in the evening") half = 'p';
  }
  if (half == 0 || hour < 1 || hour > 12) return {};
  return time_key(hour % 12 + (half == 'p' ? 12 : 0), fields[0], fields[1]);
}

Key read_date(std::string_view text) {
  if (is_digit(char_at(text, 0))) {
    bool is = false;
    const Key key = numeric_date(text, &is);
    if (is) return key;
  } else if (!is_alpha(char_at(text, 0))) {
    return {};
  }
  std::size_t at = after_word(text, 0, "on ");
  for (const std::string_view day : {"mon", "tues", "wednes", "thurs", "fri", "satur", "sun"}) {
    const std::size_t end = after_word(text, at, day);
    if (end == at || !starts_at_any_case(text, end, "day")) continue;
    const std::size_t blank = skip(text, end + 3, ',');
    if (char_at(text, blank) == ' ') at = blank + 1;
    break;
  }
  at = after_word(text, at, "the ");
  std::string_view name;
  int day = -1;
  if (is_digit(char_at(text, at))) {
    day = day_at(text, &at);
    if (day < 0 || char_at(text, at) != ' ') return {};
    at = after_word(text, at + 1, "of ");
    name = name_at(text, &at);
    if (name.empty()) return {};
  } else {
    name = name_at(text, &at);
    if (name.empty() || char_at(text, at) != ' ') return {};
    ++at;
    day = day_at(text, &at);
    if (day < 0) return {};
  }
  const int year = year_at(text, at);
  return year == -2 ? Key() : date_key(year, month_of(name), day);
}

}  // namespace fastsi::vote
