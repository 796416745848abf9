// Keys of the answers that most paths give: numbers, choices, yes or no. Self-contained, without
// allocation or the standard library, so that one source serves the host and a CUDA kernel.
//
// `device_key` reads a conservative subset. Where it says yes, its key is the one that
// `fastsi::vote::key_of_answer` gives for the same bytes (it is that function's fast path); where
// it says no, the span may still have a key, and the host must read it.
#pragma once

#if defined(__CUDACC__)
#define FASTSI_HOST_DEVICE __host__ __device__
#else
#define FASTSI_HOST_DEVICE
#endif

namespace fastsi::vote {

enum class DeviceKind : unsigned char { number, choice, boolean };

// A key in two words: num:numerator/denominator in lowest terms with a positive denominator,
// choice:letter (numerator is 'a' to 'j'), or bool:yes and bool:no (numerator is 1 or 0).
struct DeviceKey {
  DeviceKind kind = DeviceKind::number;
  long long numerator = 0;
  long long denominator = 1;
};

namespace device {

constexpr int kMaxSpan = 256;   // bytes; longer answers are prose
constexpr int kMaxDigits = 18;  // decimal digits that always fit 63 bits

// What is left to read: bytes [at, end).
struct Span {
  const char* at;
  const char* end;

  FASTSI_HOST_DEVICE bool empty() const { return at >= end; }
  FASTSI_HOST_DEVICE char front() const { return at < end ? *at : '\0'; }
  FASTSI_HOST_DEVICE char peek(int offset) const { return offset < end - at ? at[offset] : '\0'; }
  FASTSI_HOST_DEVICE bool starts(const char* word, int size) const {
    if (end - at < size) return false;
    for (int i = 0; i < size; ++i) {
      if (at[i] != word[i]) return false;
    }
    return true;
  }
  FASTSI_HOST_DEVICE bool take(const char* word, int size) {
    if (!starts(word, size)) return false;
    at += size;
    return true;
  }
  FASTSI_HOST_DEVICE bool take(char c) {
    if (front() != c || empty()) return false;
    ++at;
    return true;
  }
  FASTSI_HOST_DEVICE void skip_blanks() {
    while (front() == ' ') ++at;
  }
};

FASTSI_HOST_DEVICE inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
FASTSI_HOST_DEVICE inline char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}
FASTSI_HOST_DEVICE inline bool is_letter(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }
FASTSI_HOST_DEVICE inline bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}
// Marks around an answer that say nothing. No underscore: it would glue a star to a word.
FASTSI_HOST_DEVICE inline bool is_dressing(char c) {
  return is_blank(c) || c == '"' || c == '\'' || c == '*' || c == ',' || c == ';' || c == ':' ||
         c == '?';
}

// $, \$, and the signs of euro, pound and yen in UTF-8: bytes, or 0 where there is none.
FASTSI_HOST_DEVICE inline int currency(const Span& s) {
  if (s.front() == '$') return 1;
  if (s.starts("\\$", 2) || s.starts("\xC2\xA3", 2) || s.starts("\xC2\xA5", 2)) return 2;
  return s.starts("\xE2\x82\xAC", 3) ? 3 : 0;
}

// Takes dressing, dollar signs and one full stop from the end; false where there are more stops.
FASTSI_HOST_DEVICE inline bool strip_end(Span* s) {
  bool point = false;
  for (;;) {
    const char* before = s->end;
    while (!s->empty() && is_dressing(s->end[-1])) --s->end;
    if (!s->empty() && s->end[-1] == '.') {
      if (point) return false;
      --s->end;
      point = true;
    } else if (!s->empty() && s->end[-1] == '$') {
      --s->end;
      if (!s->empty() && s->end[-1] == '\\') --s->end;
    }
    if (s->end == before) return true;
  }
}

// Digits, their value and how many there were; false beyond kMaxDigits.
FASTSI_HOST_DEVICE inline bool read_digits(Span* s, long long* value, int* count) {
  while (is_digit(s->front())) {
    if (++*count > kMaxDigits) return false;  // before the product, which could overflow
    *value = *value * 10 + (*s->at - '0');
    ++s->at;
  }
  return true;
}

// Bytes of a thousands separator: one comma, {,} or \, before exactly three digits.
FASTSI_HOST_DEVICE inline int separator(const Span& s) {
  int size = 0;
  if (s.front() == ',') size = 1;
  if (s.starts("{,}", 3)) size = 3;
  if (s.starts("\\,", 2)) size = 2;
  if (size == 0) return 0;
  const bool three = is_digit(s.peek(size)) && is_digit(s.peek(size + 1)) &&
                     is_digit(s.peek(size + 2)) && !is_digit(s.peek(size + 3));
  return three ? size : 0;
}

// 1234, 1,234, 1{,}234, 1,234.50, .5: value = digits / 10**decimals.
FASTSI_HOST_DEVICE inline bool read_decimal(Span* s, long long* value, int* decimals) {
  int count = 0;
  *value = 0;
  *decimals = 0;
  if (!read_digits(s, value, &count)) return false;
  const int mark = count > 0 && count <= 3 ? separator(*s) : 0;
  while (mark > 0 && separator(*s) == mark) {
    s->at += mark;
    if (!read_digits(s, value, &count)) return false;
  }
  if (s->front() == '.' && is_digit(s->peek(1))) {
    ++s->at;
    const int whole = count;
    if (!read_digits(s, value, &count)) return false;
    *decimals = count - whole;
  }
  return count > 0;
}

FASTSI_HOST_DEVICE inline long long greatest_divisor(long long a, long long b) {
  while (b != 0) {
    const long long rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

FASTSI_HOST_DEVICE inline bool set_number(long long top, long long bottom, bool negative,
                                          DeviceKey* key) {
  if (bottom == 0) return false;
  const long long divisor = greatest_divisor(top, bottom);
  key->kind = DeviceKind::number;
  key->numerator = (negative ? -top : top) / divisor;
  key->denominator = bottom / divisor;
  return true;
}

// + or -, also the minus sign U+2212: -1, +1, or 0 where there is none.
FASTSI_HOST_DEVICE inline int take_sign(Span* s) {
  int sign = 0;
  if (s->take('-') || s->take("\xE2\x88\x92", 3)) sign = -1;
  if (sign == 0 && s->take('+')) sign = 1;
  if (sign != 0) s->skip_blanks();
  return sign;
}

// \frac{3}{4} with \dfrac and \tfrac; signs in the numerator.
FASTSI_HOST_DEVICE inline bool read_fraction(Span s, bool negative, bool has_sign, DeviceKey* key) {
  if (!s.take("\\frac{", 6) && !s.take("\\dfrac{", 7) && !s.take("\\tfrac{", 7)) return false;
  long long top = 0, bottom = 0;
  int top_digits = 0, bottom_digits = 0;
  if (s.front() == '-') {
    if (has_sign) return false;
    ++s.at;
    negative = true;
  }
  if (!read_digits(&s, &top, &top_digits) || !s.take("}{", 2)) return false;
  if (!read_digits(&s, &bottom, &bottom_digits) || !s.take('}') || !s.empty()) return false;
  return top_digits > 0 && bottom_digits > 0 && set_number(top, bottom, negative, key);
}

FASTSI_HOST_DEVICE inline bool read_number(Span s, DeviceKey* key) {
  int sign = take_sign(&s);
  if (const int size = currency(s)) {
    s.at += size;
    s.skip_blanks();
    if (sign == 0) sign = take_sign(&s);
  }
  if (s.front() == '\\') return read_fraction(s, sign < 0, sign != 0, key);
  long long top = 0, bottom = 1;
  int decimals = 0;
  if (!read_decimal(&s, &top, &decimals)) return false;
  for (int i = 0; i < decimals; ++i) bottom *= 10;
  s.skip_blanks();
  if (s.front() == '/' && decimals == 0) {
    ++s.at;
    s.skip_blanks();
    int digits = 0;
    bottom = 0;
    if (!read_digits(&s, &bottom, &digits) || digits == 0) return false;
    s.skip_blanks();
  }
  if (s.take('%') || s.take("\\%", 2)) s.skip_blanks();
  if (!s.empty()) s.at += currency(s);
  return s.empty() && set_number(top, bottom, sign < 0, key);
}

FASTSI_HOST_DEVICE inline bool set_choice(char letter, DeviceKey* key) {
  key->kind = DeviceKind::choice;
  key->numerator = lower(letter);
  key->denominator = 1;
  return true;
}

// What may follow a choice with a blank between: words or a number, not "and", "or", another
// choice, an operator or anything that brackets could hide in.
FASTSI_HOST_DEVICE inline bool is_choice_text(Span s) {
  if (!s.take(' ') || !(is_letter(s.front()) || is_digit(s.front()))) return false;
  if (s.starts("and", 3) || s.starts("or", 2)) return false;
  for (const char* c = s.at; c < s.end; ++c) {
    // A dollar sign takes the country before it along, up to the blank after the choice.
    if (*c == '(' || *c == '\\' || *c == '$' || static_cast<unsigned char>(*c) >= 0x80)
      return false;
  }
  return true;
}

// (B), [B], B), B, and with text: (B) 18, B) 18, B. 18.
FASTSI_HOST_DEVICE inline bool read_choice(Span s, DeviceKey* key) {
  const char open = s.front();
  const bool bracket = open == '(' || open == '[';
  if (bracket) ++s.at;
  const char letter = s.front();
  const bool upper = letter >= 'A' && letter <= 'J';
  if (!upper && !(letter >= 'a' && letter <= 'j')) return false;
  ++s.at;
  if (bracket) {
    if (!s.take(open == '(' ? ')' : ']')) return false;
  } else if (s.empty()) {
    return (upper || letter <= 'd') && set_choice(letter, key);
  } else if (!s.take(')') && !(upper && s.front() == '.' && s.peek(1) == ' ' && s.take('.'))) {
    return false;
  }
  return (s.empty() || is_choice_text(s)) && set_choice(letter, key);
}

FASTSI_HOST_DEVICE inline bool take_word(Span* s, const char* word, int size) {
  if (s->end - s->at < size) return false;
  for (int i = 0; i < size; ++i) {
    if (lower(s->at[i]) != word[i]) return false;
  }
  s->at += size;
  return true;
}

FASTSI_HOST_DEVICE inline bool read_boolean(Span s, DeviceKey* key) {
  const bool yes = take_word(&s, "yes", 3) || take_word(&s, "true", 4);
  if (!yes && !take_word(&s, "no", 2) && !take_word(&s, "false", 5)) return false;
  const char next = s.front();
  if (next == '.') {  // "No. 5" is none
    ++s.at;
    s.skip_blanks();
    if (!is_letter(s.front())) return false;
    for (const char* c = s.at; c < s.end; ++c) {  // of "No. US$5" the rest is "No. 5"
      if (*c == '$') return false;
    }
  } else if (!s.empty() && next != ',' && next != ';' && next != ':' && next != '!') {
    return false;
  }
  key->kind = DeviceKind::boolean;
  key->numerator = yes ? 1 : 0;
  key->denominator = 1;
  return true;
}

// \text{B}, \textbf{(B)}, \text{yes}: a wrapper that holds no other.
FASTSI_HOST_DEVICE inline bool unwrap(Span* s) {
  Span inner = *s;
  if (inner.empty() || inner.end[-1] != '}') return false;
  if (!inner.take("\\text{", 6) && !inner.take("\\textbf{", 8) && !inner.take("\\mathrm{", 8)) {
    return false;
  }
  --inner.end;
  for (const char* c = inner.at; c < inner.end; ++c) {
    if (*c == '{' || *c == '}' || *c == '\\') return false;
  }
  *s = inner;
  return true;
}

FASTSI_HOST_DEVICE inline void strip_start(Span* s) {
  while (!s->empty() && is_dressing(s->front())) ++s->at;
}

}  // namespace device

// Key of the answer span of `size` UTF-8 bytes at `text`; false leaves it to the host.
FASTSI_HOST_DEVICE inline bool device_key(const char* text, int size, DeviceKey* key) {
  using device::Span;
  if (size <= 0 || size > device::kMaxSpan) return false;
  Span s{text, text + size};
  device::strip_start(&s);
  if (!device::strip_end(&s) || s.empty()) return false;
  if (s.front() == '$') {  // opens a formula, or is a currency sign
    ++s.at;
    device::strip_start(&s);
  }
  if (s.front() == '\\' && device::unwrap(&s)) {
    device::strip_start(&s);
    if (!device::strip_end(&s)) return false;
    return device::read_choice(s, key) || device::read_boolean(s, key);
  }
  return device::read_number(s, key) || device::read_choice(s, key) || device::read_boolean(s, key);
}

}  // namespace fastsi::vote
