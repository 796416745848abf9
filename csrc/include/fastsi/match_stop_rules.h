// Where a text may end: rules of completed answers, defined in fastsi/ops/match_stop/answers.py.
// Self-contained, without allocation or the standard library's functions, so that one source serves
// the host and a CUDA kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define FASTSI_HOST_DEVICE __host__ __device__
#else
#define FASTSI_HOST_DEVICE
#endif

namespace fastsi::stop {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);
constexpr std::size_t kWindow = 256;  // bytes up to the one that completes an answer
constexpr std::size_t kMaxValue = 64;
constexpr int kMaxWords = 5;

// Bytes of somebody else, as std::string_view on the host.
class Text {
 public:
  FASTSI_HOST_DEVICE constexpr Text(const char* data, std::size_t size)
      : data_(data), size_(size) {}
  template <std::size_t N>
  FASTSI_HOST_DEVICE constexpr Text(const char (&literal)[N]) : Text(literal, N - 1) {}
  FASTSI_HOST_DEVICE std::size_t size() const { return size_; }
  FASTSI_HOST_DEVICE char operator[](std::size_t i) const { return data_[i]; }
  FASTSI_HOST_DEVICE char back() const { return data_[size_ - 1]; }
  FASTSI_HOST_DEVICE Text substr(std::size_t at, std::size_t count = kNone) const {
    const std::size_t left = size_ - at;
    return {data_ + at, count < left ? count : left};
  }
  // First or last place of `want`, which must not be empty in rfind; kNone: there is none.
  FASTSI_HOST_DEVICE std::size_t find(Text want, std::size_t from) const {
    for (; from + want.size_ <= size_; ++from) {
      if (starts_at(from, want)) return from;
    }
    return kNone;
  }
  FASTSI_HOST_DEVICE std::size_t rfind(Text want) const {
    for (std::size_t at = size_; at >= want.size_; --at) {
      if (starts_at(at - want.size_, want)) return at - want.size_;
    }
    return kNone;
  }
  FASTSI_HOST_DEVICE bool ends_with(Text want) const {
    return size_ >= want.size_ && starts_at(size_ - want.size_, want);
  }

 private:
  FASTSI_HOST_DEVICE bool starts_at(std::size_t at, Text want) const {
    for (std::size_t i = 0; i < want.size_; ++i) {
      if (data_[at + i] != want.data_[i]) return false;
    }
    return true;
  }

  const char* data_;
  std::size_t size_;
};

FASTSI_HOST_DEVICE inline bool in(char byte, Text set) {
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (set[i] == byte) return true;
  }
  return false;
}
FASTSI_HOST_DEVICE inline bool is_blank(char byte) { return in(byte, " \t\n\r"); }
FASTSI_HOST_DEVICE inline bool is_trigger(char byte) {
  return byte == '}' || byte == '>' || is_blank(byte);
}
FASTSI_HOST_DEVICE inline char lower(char byte) {
  return 'A' <= byte && byte <= 'Z' ? static_cast<char>(byte | 0x20) : byte;
}
FASTSI_HOST_DEVICE inline bool is_letter(char byte) {
  return 'a' <= lower(byte) && lower(byte) <= 'z';
}
FASTSI_HOST_DEVICE inline bool is_digit(char byte) { return '0' <= byte && byte <= '9'; }
FASTSI_HOST_DEVICE inline bool is_word(char byte) {
  return is_letter(byte) || is_digit(byte) || static_cast<unsigned char>(byte) >= 0x80;
}
FASTSI_HOST_DEVICE inline bool says_something(Text text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_word(text[i])) return true;
  }
  return false;
}

// `want` is in lower case.
FASTSI_HOST_DEVICE inline bool same(Text text, Text want) {
  if (text.size() != want.size()) return false;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (lower(text[i]) != want[i]) return false;
  }
  return true;
}
FASTSI_HOST_DEVICE inline bool starts(Text text, Text want) {
  return same(text.substr(0, want.size()), want);
}
FASTSI_HOST_DEVICE inline bool ends(Text text, Text want) {
  return text.size() >= want.size() && same(text.substr(text.size() - want.size()), want);
}

// Start of the last `want` in `text`, in any case.
FASTSI_HOST_DEVICE inline std::size_t find_last(Text text, Text want) {
  for (std::size_t at = text.size(); at >= want.size(); --at) {
    if (same(text.substr(at - want.size(), want.size()), want)) return at - want.size();
  }
  return kNone;
}

// The rules below see a window of the text whose last byte is the trigger; `whole` says whether the
// window begins where the text does. They return where the answer ends in the window, or kNone.

FASTSI_HOST_DEVICE inline bool escaped(Text window, std::size_t at) {
  std::size_t first = at;
  while (first > 0 && window[first - 1] == '\\') --first;
  return (at - first) % 2 == 1;
}

FASTSI_HOST_DEVICE inline std::size_t box(Text window) {
  const std::size_t at = window.size() - 1;
  if (escaped(window, at)) return kNone;
  int depth = 0;
  std::size_t open = kNone;
  for (std::size_t i = at + 1; i-- > 0;) {
    if ((window[i] != '{' && window[i] != '}') || escaped(window, i)) continue;
    depth += window[i] == '}' ? 1 : -1;
    if (depth <= 0) {
      open = i;
      break;
    }
  }
  if (open == kNone || depth < 0) return kNone;
  std::size_t name = open;
  while (name > 0 && is_blank(window[name - 1])) --name;
  const Text before = window.substr(0, name);
  const bool named = before.ends_with("\\boxed") || before.ends_with("\\fbox");
  return named && says_something(window.substr(open + 1, at - open - 1)) ? at + 1 : kNone;
}

FASTSI_HOST_DEVICE inline std::size_t tag(Text window) {
  const Text kOpen = "<answer>", kClose = "</answer>";
  if (!ends(window, kClose)) return kNone;
  const Text before = window.substr(0, window.size() - kClose.size());
  const std::size_t begin = find_last(before, kOpen);
  if (begin == kNone) return kNone;
  return says_something(before.substr(begin + kOpen.size())) ? window.size() : kNone;
}

FASTSI_HOST_DEVICE inline bool is_number(Text value) {
  if (in(value.back(), "+-*/=,([{<:\\")) return false;
  int words = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i] == '.' && i + 1 < value.size() && in(value[i + 1], " \t")) return false;
    words += is_letter(value[i]) && (i == 0 || !is_letter(value[i - 1]));
  }
  return words <= kMaxWords;
}

// Whether a value is this word, or begins with it and a comma.
FASTSI_HOST_DEVICE inline bool is_word_of(Text value, Text word) {
  return starts(value, word) && (value.size() == word.size() || value[word.size()] == ',');
}

FASTSI_HOST_DEVICE inline bool is_value(Text text) {
  std::size_t begin = 0, end = text.size();
  bool bracket = false;
  for (; begin < end; ++begin) {
    const char byte = text[begin];
    if (byte == '\\' && begin + 1 < end && in(text[begin + 1], "([")) {
      ++begin;
    } else if (in(byte, "([")) {
      bracket = true;
    } else if (!in(byte, " \t$*_{\"+-~")) {
      break;
    }
  }
  while (end > begin && in(text[end - 1], " \t\r$*_")) --end;
  if (begin >= end || end - begin > kMaxValue) return false;
  const Text value = text.substr(begin, end - begin);
  const std::size_t size = value.size();
  if (in('\n', value)) return false;
  if (is_digit(value[0]) || (size > 1 && value[0] == '.' && is_digit(value[1]))) {
    return is_number(value);
  }
  if (starts(value, "\\frac") || starts(value, "\\dfrac") || starts(value, "\\tfrac")) {
    return is_number(value);
  }
  if (is_word_of(value, "yes") || is_word_of(value, "no") || is_word_of(value, "true") ||
      is_word_of(value, "false")) {
    return true;
  }
  const char letter = lower(value[0]);
  if (size > 2 || letter < 'a' || letter > 'j' || (size == 2 && !in(value[1], ")]"))) return false;
  return bracket || size == 2 || letter <= 'd' || value[0] != letter;
}

FASTSI_HOST_DEVICE inline std::size_t hash(Text window, bool whole) {
  const std::size_t end = window.size() - 1;
  const Text before = window.substr(0, end);
  const std::size_t newline = before.rfind("\n");
  if (newline == kNone && !whole) return kNone;  // the line begins before the window
  std::size_t line = newline == kNone ? 0 : newline + 1;
  while (line < end && in(window[line], " \t")) ++line;
  std::size_t value = line;
  while (value < end && window[value] == '#') ++value;
  return value - line >= 4 && is_value(before.substr(value)) ? end : kNone;
}

FASTSI_HOST_DEVICE inline std::size_t skip(Text text, std::size_t at, Text what) {
  while (at < text.size() && in(text[at], what)) ++at;
  return at;
}

// Whether a mark and a value fill the end of `text`.
FASTSI_HOST_DEVICE inline bool phrase(Text text) {
  const auto is = [&](std::size_t at, char want) {
    return at < text.size() && lower(text[at]) == want;
  };
  std::size_t at = find_last(text, "answer");
  if (at == kNone || (at > 0 && is_letter(text[at - 1]))) return false;
  at += 6;
  if (is(at, 's')) ++at;
  at = skip(text, at, " \t*_");
  if (is(at, 'i') && is(at + 1, 's') && (at + 2 >= text.size() || !is_letter(text[at + 2]))) {
    at = skip(text, at + 2, " \t*_");
    if (is(at, ':')) ++at;
  } else if (is(at, ':')) {
    ++at;
  } else {
    return false;
  }
  return is_value(text.substr(skip(text, at, " \t\r\n*_")));
}

FASTSI_HOST_DEVICE inline std::size_t by_rule(Text window, bool whole) {
  const char byte = window.back();
  if (byte == '}') return box(window);
  if (byte == '>') return tag(window);
  const std::size_t at = window.size() - 1;
  if (byte == '\n') {
    const std::size_t end = hash(window, whole);
    if (end != kNone) return end;
  }
  std::size_t stop = at;
  while (stop > 0 && in(window[stop - 1], "\"')*]")) --stop;
  if (stop > 0 && in(window[stop - 1], ".!")) {
    return phrase(window.substr(0, stop - 1)) ? stop : kNone;
  }
  return byte == '\n' && phrase(window.substr(0, at)) ? at : kNone;
}

FASTSI_HOST_DEVICE inline std::size_t completed(Text window, bool whole) {
  const std::size_t end = by_rule(window, whole);
  if (end == kNone) return kNone;
  const std::size_t thought = window.rfind("</think>");
  if (thought == kNone) return end;
  // Nothing is left where the trigger is the end of the thought itself.
  const std::size_t last = window.size() - 1;
  const std::size_t low = thought + 8 < last ? thought + 8 : last;
  const std::size_t after = by_rule(window.substr(low), false);
  return after == kNone ? kNone : low + after;
}

// Looks at the bytes from `from` on; keeps `thinking` up to date even after an answer was found.
FASTSI_HOST_DEVICE inline std::int64_t scan(Text text, std::size_t from, std::size_t begin,
                                            bool* thinking) {
  std::int64_t found = -1;
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!is_trigger(text[at])) continue;
    if (text[at] == '>') {
      const Text before = text.substr(0, at + 1);
      if (before.ends_with("<think>")) *thinking = true;
      if (before.ends_with("</think>")) *thinking = false;
    }
    if (*thinking || at < begin || found >= 0) continue;
    const std::size_t size = at + 1 < kWindow ? at + 1 : kWindow;
    const std::size_t low = at + 1 - size;
    const std::size_t end = completed(text.substr(low, size), low == 0);
    if (end != kNone) found = static_cast<std::int64_t>(low + end);
  }
  return found;
}

// Whether one of the strings [first, last) of a CSR is completed by the bytes from `from` on.
FASTSI_HOST_DEVICE inline bool completes(Text text, std::size_t from, const char* bytes,
                                         const std::int64_t* indptr, std::int64_t first,
                                         std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i) {
    const Text want(bytes + indptr[i], static_cast<std::size_t>(indptr[i + 1] - indptr[i]));
    const std::size_t back = want.size() - 1;
    if (text.find(want, from < back ? 0 : from - back) != kNone) return true;
  }
  return false;
}

}  // namespace fastsi::stop
