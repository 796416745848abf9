#include <algorithm>

#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr int kMaxDigits = 4300;  // of the reference
constexpr int kOwnDigits = 37;    // that always fit 127 bits

Int power_of_ten(int exponent) {
  Int power = 1;
  for (int i = 0; i < exponent; ++i) power *= 10;
  return power;
}

Int greatest_divisor(Int a, Int b) {
  while (b != 0) {
    if (a <= INT64_MAX && b <= INT64_MAX) {
      auto x = static_cast<std::uint64_t>(a), y = static_cast<std::uint64_t>(b);
      while (y != 0) {
        const std::uint64_t rest = x % y;
        x = y;
        y = rest;
      }
      return x;
    }
    const Int rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// A plain literal ("12.50") times ten to an exponent ("-3").
std::optional<Rational> literal_value(Reading& reading, std::string_view literal,
                                      std::string_view exponent) {
  const bool down = exponent[0] == '-';
  exponent.remove_prefix(has("+-", exponent[0]) ? 1 : 0);
  while (exponent.size() > 1 && exponent[0] == '0') exponent.remove_prefix(1);
  if (exponent.size() > 4) return {};
  int shift = 0;
  for (const char c : exponent) shift = shift * 10 + (c - '0');
  if (down) shift = -shift;
  int digits = 0;
  Int value = 0;
  bool point = false;
  for (const char c : literal) {
    if (c == '.') {
      point = true;
      continue;
    }
    if (point) --shift;
    if (digits > 0 || c != '0') ++digits;
    if (digits <= kOwnDigits) value = value * 10 + (c - '0');
  }
  if (digits == 0) return Rational{};
  if (digits + std::max(shift, 0) > kMaxDigits || -shift > kMaxDigits) return {};
  if (digits + std::max(shift, 0) > kOwnDigits || -shift > kOwnDigits) {
    reading.host = true;
    return {};
  }
  return shift >= 0 ? Rational{value * power_of_ten(shift), 1}
                    : reduced(value, power_of_ten(-shift));
}

// Groups at `at`: a separator of `marks` and `size` digits that are not followed by another digit
// or by one of `stops`.
std::size_t groups_end(std::string_view text, std::size_t at, std::string_view marks,
                       std::size_t size, std::string_view stops, int* count) {
  *count = 0;
  while (at < text.size() && has(marks, text[at])) {
    const std::size_t end = digits_end(text, at + 1);
    if (end - at - 1 != size || (end < text.size() && has(stops, text[end]))) break;
    at = end;
    ++*count;
  }
  return at;
}

void append_digits(std::string_view text, std::string* plain) {
  for (const char c : text) {
    if (is_digit(c)) plain->push_back(c);
  }
}

// 1.234,56 and 1 234,56.
std::size_t decimal_comma(std::string_view text, std::size_t at, std::size_t digits,
                          std::string* plain) {
  int count = 0;
  const std::size_t comma = groups_end(text, digits, ". '", 3, "", &count);
  if (count == 0 || char_at(text, comma) != ',') return kNone;
  const std::size_t end = digits_end(text, comma + 1);
  if (end == comma + 1 || end > comma + 3) return kNone;
  if (char_at(text, end) == ',' && is_digit(char_at(text, end + 1))) return kNone;
  append_digits(text.substr(at, comma - at), plain);
  plain->append(".").append(text.substr(comma + 1, end - comma - 1));
  return end;
}

// End of digits with thousands separators, kNone where they have none.
std::size_t grouped_end(std::string_view text, std::size_t at, std::size_t digits, bool* final) {
  int count = 0;
  std::size_t end = groups_end(text, digits, ",", 3, "", &count);
  if (count > 0) return end;
  if (digits - at <= 2) {  // Indian
    end = groups_end(text, digits, ",", 2, "", &count);
    if (count > 0) {
      const std::size_t last = digits_end(text, end + 1);
      if (char_at(text, end) == ',' && last == end + 4) return last;
    }
  }
  end = groups_end(text, digits, ".", 3, "", &count);
  if (count >= 2 && char_at(text, end) != '.') {
    *final = true;
    return end;
  }
  for (const std::string_view mark : {" ", "'", "_"}) {
    end = groups_end(text, digits, mark, 3, "/", &count);
    if (count > 0) return end;
  }
  return kNone;
}

// Digits with separators and decimals at `at` in plain form; their end, or kNone.
std::size_t literal_end(std::string_view text, std::size_t at, std::string* plain) {
  plain->clear();
  std::size_t end = digits_end(text, at);
  bool final = false;  // a decimal part cannot follow
  if (end > at) {
    const std::size_t run = end - at;
    std::size_t grouped = kNone;
    if (run <= 3 && end < text.size() && has(",. '_", text[end])) {
      const std::size_t comma = decimal_comma(text, at, end, plain);
      if (comma != kNone) return comma;
      grouped = grouped_end(text, at, end, &final);
    }
    if (grouped != kNone) end = grouped;
    append_digits(text.substr(at, end - at), plain);
  }
  const std::size_t decimals = char_at(text, end) == '.' ? digits_end(text, end + 1) : end + 1;
  if (!final && decimals > end + 1) {
    plain->append(text.substr(end, decimals - end));
    end = decimals;
  }
  return end > at ? end : kNone;
}

// 10^6, 10 ^ (-6) at `at`.
std::size_t ten_power_end(std::string_view text, std::size_t at, std::string_view* exponent) {
  if (!starts_at(text, at, "10")) return kNone;
  at = skip(text, at + 2, ' ');
  if (char_at(text, at) != '^') return kNone;
  at = skip(text, at + 1, ' ');
  const bool bracket = char_at(text, at) == '(';
  if (bracket) ++at;
  const std::size_t digits = at < text.size() && has("+-", text[at]) ? at + 1 : at;
  const std::size_t end = digits_end(text, digits);
  if (end == digits || (bracket && char_at(text, end) != ')')) return kNone;
  *exponent = text.substr(at, end - at);
  return bracket ? end + 1 : end;
}

// e3, x 10^3 or * 10^(-3) at `at`.
std::size_t exponent_end(std::string_view text, std::size_t at, std::string_view* exponent) {
  *exponent = "0";
  if (lower(char_at(text, at)) == 'e') {
    const std::size_t sign = at + 1;
    const std::size_t digits = sign < text.size() && has("+-", text[sign]) ? sign + 1 : sign;
    const std::size_t end = digits_end(text, digits);
    if (end > digits && char_at(text, end) != '.') {
      *exponent = text.substr(sign, end - sign);
      return end;
    }
  }
  std::size_t times = skip(text, at, ' ');
  if (times < text.size() && has("*xX", text[times])) {
    times = skip(text, times + 1, ' ');
    const std::size_t end = ten_power_end(text, times, exponent);
    if (end != kNone) return end;
  }
  return at;
}

// 1 1/2 and 1 and 1/2: kNone where the text is none; `*valid` tells whether the fraction is one.
std::size_t mixed_end(Reading& reading, std::string_view text, std::size_t at, Rational* value,
                      bool* valid) {
  std::size_t end = digits_end(text, at);
  if (end == at) return kNone;
  std::string whole(text.substr(at, end - at));
  while (char_at(text, end) == ',' && is_digit(char_at(text, end + 1)) &&
         is_digit(char_at(text, end + 2)) && is_digit(char_at(text, end + 3))) {
    whole.append(text.substr(end + 1, 3));
    end += 4;
  }
  if (starts_at_any_case(text, end, " and ")) {
    end += 5;
  } else if (char_at(text, end) == ' ') {
    end += 1;
  } else {
    return kNone;
  }
  const std::size_t top = end;
  end = digits_end(text, end);
  const std::size_t bar = skip(text, end, ' ');
  if (end == top || char_at(text, bar) != '/') return kNone;
  const std::size_t bottom = skip(text, bar + 1, ' ');
  const std::size_t last = digits_end(text, bottom);
  if (last == bottom || (last < text.size() && has("./", text[last]))) return kNone;
  const auto one = literal_value(reading, whole, "0");
  const auto two = literal_value(reading, text.substr(top, end - top), "0");
  const auto three = literal_value(reading, text.substr(bottom, last - bottom), "0");
  *valid = one && two && three && one->top != 0 && three->top != 0 && two->top < three->top;
  if (*valid) {
    const auto total = sum(reading, *one, reduced(two->top, three->top));
    *valid = total.has_value();
    if (total) *value = *total;
  }
  return last;
}

// Half, quarter or third after "and", "and a", "and one".
std::size_t and_part_end(std::string_view text, std::size_t at, int* part) {
  if (!starts_at_any_case(text, at, " and ")) return kNone;
  at += 5;
  if (starts_at_any_case(text, at, "a ")) {
    at += 2;
  } else if (starts_at_any_case(text, at, "one ")) {
    at += 4;
  }
  const std::size_t end = letters_end(text, at);
  const std::string word = lowered(text.substr(at, end - at));
  if (word != "half" && word != "quarter" && word != "third") return kNone;
  *part = part_of(word);
  return end;
}

// Words that change the value: 2 hundred million, 3 fourths, 2 and a half.
std::optional<Number> scaled(Reading& reading, std::string_view text, std::size_t at,
                             Rational value) {
  int part = -1;
  const std::size_t and_end = and_part_end(text, at, &part);
  if (and_end != kNone && value.bottom == 1) {
    const auto total = sum(reading, value, Rational{1, part});
    if (!total) return {};
    return Number{*total, and_end};
  }
  bool first = true;
  while (char_at(text, at) == ' ') {
    const std::size_t end = letters_end(text, at + 1);
    if (end == at + 1) break;
    const std::string word = lowered(text.substr(at + 1, end - at - 1));
    if (first && value.bottom == 1) {
      part = value.top == 1 ? part_of(word) : plural_part_of(word);
      if (part > 0) {
        const auto whole = quotient(reading, value, Rational{part, 1});
        if (!whole) return {};
        return Number{*whole, end};
      }
    }
    first = false;
    const int scale = scale_of(word);
    if (scale < 0) break;
    const auto more = product(reading, value, Rational{power_of_ten(scale), 1});
    if (!more) return {};
    value = *more;
    at = end;
  }
  return Number{value, at};
}

std::optional<Number> unsigned_prefix(Reading& reading, std::string_view text, std::size_t at) {
  Rational value;
  bool valid = false;
  const std::size_t mixed = mixed_end(reading, text, at, &value, &valid);
  if (mixed != kNone) {
    if (!valid) return {};
    return Number{value, mixed};
  }
  std::string literal;
  const std::size_t end = literal_end(text, at, &literal);
  if (end == kNone) return {};
  std::string_view exponent;
  if (literal == "10") {
    const std::size_t power = ten_power_end(text, end - 2, &exponent);
    if (power != kNone) {
      const auto ten = literal_value(reading, "1", exponent);
      if (!ten) return {};
      return Number{*ten, power};
    }
  }
  at = exponent_end(text, end, &exponent);
  const auto first = literal_value(reading, literal, exponent);
  if (!first) return {};
  const std::size_t bar = skip(text, at, ' ');
  if (char_at(text, bar) == '/') {
    const std::size_t sign = skip(text, bar + 1, ' ');
    const std::size_t digits = skip(text, sign, '-');
    std::string second;
    const std::size_t last = literal_end(text, digits, &second);
    if (last != kNone && !(last < text.size() && has("./", text[last]))) {
      const auto divisor = literal_value(reading, second, "0");
      if (!divisor || divisor->top == 0) return {};
      const auto ratio = quotient(reading, *first, *divisor);
      if (!ratio) return {};
      return Number{digits > sign ? negated(*ratio) : *ratio, last};
    }
  }
  return scaled(reading, text, at, *first);
}

std::size_t percent_end(std::string_view text, std::size_t at) {
  const std::size_t sign = skip(text, at, ' ');
  if (char_at(text, sign) == '%') return sign + 1;
  if (!starts_at_any_case(text, sign, "per")) return at;
  const std::size_t cent = skip(text, sign + 3, ' ');
  return starts_at_any_case(text, cent, "cent") && !is_alpha(char_at(text, cent + 4)) ? cent + 4
                                                                                      : at;
}

}  // namespace

Rational reduced(Int top, Int bottom) {
  if (bottom < 0) {
    top = -top;
    bottom = -bottom;
  }
  const Int divisor = greatest_divisor(top < 0 ? -top : top, bottom);
  return {top / divisor, bottom / divisor};
}

Rational negated(const Rational& value) { return {-value.top, value.bottom}; }

std::optional<Rational> sum(Reading& reading, const Rational& a, const Rational& b) {
  Int one, two, top, bottom;
  if (__builtin_mul_overflow(a.top, b.bottom, &one) ||
      __builtin_mul_overflow(b.top, a.bottom, &two) || __builtin_add_overflow(one, two, &top) ||
      __builtin_mul_overflow(a.bottom, b.bottom, &bottom)) {
    reading.host = true;
    return {};
  }
  return reduced(top, bottom);
}

std::optional<Rational> product(Reading& reading, const Rational& a, const Rational& b) {
  Int top, bottom;
  if (__builtin_mul_overflow(a.top, b.top, &top) ||
      __builtin_mul_overflow(a.bottom, b.bottom, &bottom)) {
    reading.host = true;
    return {};
  }
  return reduced(top, bottom);
}

std::optional<Rational> quotient(Reading& reading, const Rational& a, const Rational& b) {
  return product(reading, a, b.top < 0 ? Rational{-b.bottom, -b.top} : Rational{b.bottom, b.top});
}

int compare(Reading& reading, const Rational& a, const Rational& b) {
  Int one, two;
  if (__builtin_mul_overflow(a.top, b.bottom, &one) ||
      __builtin_mul_overflow(b.top, a.bottom, &two)) {
    reading.host = true;
    return 0;
  }
  return one < two ? -1 : one > two;
}

namespace {

void append_integer(Int value, std::string* out) {
  char digits[40];
  int at = 40;
  const bool negative = value < 0;
  if (negative) value = -value;
  do {
    digits[--at] = static_cast<char>('0' + static_cast<int>(value % 10));
    value /= 10;
  } while (value != 0);
  if (negative) digits[--at] = '-';
  out->append(digits + at, 40 - at);
}

}  // namespace

std::string body_of(const Rational& value) {
  std::string body;
  append_integer(value.top, &body);
  if (value.bottom != 1) {
    body.push_back('/');
    append_integer(value.bottom, &body);
  }
  return body;
}

std::optional<Number> number_prefix(Reading& reading, std::string_view text) {
  bool negative = char_at(text, 0) == '-';
  std::size_t at = 0;
  if (negative || char_at(text, 0) == '+') {
    at = char_at(text, 1) == ' ' ? 2 : 1;
  } else if (starts_at_any_case(text, 0, "minus ")) {
    negative = true;
    at = 6;
  } else if (starts_at_any_case(text, 0, "negative ")) {
    negative = true;
    at = 9;
  }
  auto found = unsigned_prefix(reading, text, at);
  if (!found) return {};
  found->end = percent_end(text, found->end);
  if (negative) found->value = negated(found->value);
  return found;
}

std::optional<Rational> read_number(Reading& reading, std::string_view text) {
  const auto found = number_prefix(reading, text);
  if (!found || found->end != text.size()) return {};
  return found->value;
}

}  // namespace fastsi::vote
