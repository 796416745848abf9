#include "fastsi/match_stop.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace fastsi {
namespace {

using Text = std::string_view;
constexpr auto kNone = Text::npos;
constexpr std::size_t kMaxValue = 64;
constexpr int kMaxWords = 5;
constexpr std::uint8_t kSpecialToken = 1;  // flag of fastsi.ops.TokenBytes

bool in(char byte, Text set) { return set.find(byte) != kNone; }
bool is_blank(char byte) { return in(byte, " \t\n\r"); }
bool is_trigger(char byte) { return byte == '}' || byte == '>' || is_blank(byte); }
char lower(char byte) { return 'A' <= byte && byte <= 'Z' ? static_cast<char>(byte | 0x20) : byte; }
bool is_letter(char byte) { return 'a' <= lower(byte) && lower(byte) <= 'z'; }
bool is_digit(char byte) { return '0' <= byte && byte <= '9'; }
bool is_word(char byte) {
  return is_letter(byte) || is_digit(byte) || static_cast<unsigned char>(byte) >= 0x80;
}
bool says_something(Text text) { return std::any_of(text.begin(), text.end(), is_word); }

// `want` is in lower case.
bool same(Text text, Text want) {
  return text.size() == want.size() && std::equal(text.begin(), text.end(), want.begin(),
                                                  [](char a, char b) { return lower(a) == b; });
}
bool starts(Text text, Text want) { return same(text.substr(0, want.size()), want); }
bool ends(Text text, Text want) {
  return text.size() >= want.size() && same(text.substr(text.size() - want.size()), want);
}

// Start of the last `want` in `text`, in any case.
std::size_t find_last(Text text, Text want) {
  for (std::size_t at = text.size(); at >= want.size(); --at) {
    if (same(text.substr(at - want.size(), want.size()), want)) return at - want.size();
  }
  return kNone;
}

// The rules below see a window of the text whose last byte is the trigger; `whole` says whether the
// window begins where the text does. They return where the answer ends in the window, or kNone.

bool escaped(Text window, std::size_t at) {
  std::size_t first = at;
  while (first > 0 && window[first - 1] == '\\') --first;
  return (at - first) % 2 == 1;
}

std::size_t box(Text window) {
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
  const auto ends_with = [&](Text want) {
    return before.size() >= want.size() && before.substr(before.size() - want.size()) == want;
  };
  const bool named = ends_with("\\boxed") || ends_with("\\fbox");
  return named && says_something(window.substr(open + 1, at - open - 1)) ? at + 1 : kNone;
}

std::size_t tag(Text window) {
  constexpr Text kOpen = "<answer>", kClose = "</answer>";
  if (!ends(window, kClose)) return kNone;
  const Text before = window.substr(0, window.size() - kClose.size());
  const std::size_t begin = find_last(before, kOpen);
  if (begin == kNone) return kNone;
  return says_something(before.substr(begin + kOpen.size())) ? window.size() : kNone;
}

bool is_number(Text value) {
  if (in(value.back(), "+-*/=,([{<:\\")) return false;
  int words = 0;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i] == '.' && i + 1 < value.size() && in(value[i + 1], " \t")) return false;
    words += is_letter(value[i]) && (i == 0 || !is_letter(value[i - 1]));
  }
  return words <= kMaxWords;
}

bool is_value(Text text) {
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
  for (Text name : {"\\frac", "\\dfrac", "\\tfrac"}) {
    if (starts(value, name)) return is_number(value);
  }
  for (Text word : {"yes", "no", "true", "false"}) {
    if (starts(value, word) && (size == word.size() || value[word.size()] == ',')) return true;
  }
  const char letter = lower(value[0]);
  if (size > 2 || letter < 'a' || letter > 'j' || (size == 2 && !in(value[1], ")]"))) return false;
  return bracket || size == 2 || letter <= 'd' || value[0] != letter;
}

std::size_t hash(Text window, bool whole) {
  const std::size_t end = window.size() - 1;
  const Text before = window.substr(0, end);
  const std::size_t newline = before.rfind('\n');
  if (newline == kNone && !whole) return kNone;  // the line begins before the window
  std::size_t line = newline == kNone ? 0 : newline + 1;
  while (line < end && in(window[line], " \t")) ++line;
  std::size_t value = line;
  while (value < end && window[value] == '#') ++value;
  return value - line >= 4 && is_value(before.substr(value)) ? end : kNone;
}

std::size_t skip(Text text, std::size_t at, Text what) {
  while (at < text.size() && in(text[at], what)) ++at;
  return at;
}

// Whether a mark and a value fill the end of `text`.
bool phrase(Text text) {
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

std::size_t by_rule(Text window, bool whole) {
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

std::size_t completed(Text window, bool whole) {
  const std::size_t end = by_rule(window, whole);
  if (end == kNone) return kNone;
  const std::size_t thought = window.rfind("</think>");
  if (thought == kNone) return end;
  // Nothing is left where the trigger is the end of the thought itself.
  const std::size_t low = std::min(thought + 8, window.size() - 1);
  const std::size_t after = by_rule(window.substr(low), false);
  return after == kNone ? kNone : low + after;
}

// Looks at the bytes from `from` on; keeps `thinking` up to date even after an answer was found.
std::int64_t scan(Text text, std::size_t from, std::size_t begin, bool* thinking) {
  std::int64_t found = -1;
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!is_trigger(text[at])) continue;
    if (text[at] == '>') {
      const auto tail = [&](std::size_t size) {
        return text.substr(at + 1 - std::min(size, at + 1), std::min(size, at + 1));
      };
      if (tail(7) == "<think>") *thinking = true;
      if (tail(8) == "</think>") *thinking = false;
    }
    if (*thinking || at < begin || found >= 0) continue;
    const auto size = std::min<std::size_t>(at + 1, kAnswerWindow);
    const std::size_t low = at + 1 - size;
    const std::size_t end = completed(text.substr(low, size), low == 0);
    if (end != kNone) found = static_cast<std::int64_t>(low + end);
  }
  return found;
}

template <typename T>
T* writable(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

template <typename T>
const T* column(const char* name, const TensorView& view, DType dtype) {
  require_dims(name, view, 1);
  return vector_of<T>(name, view, dtype, view.shape[0]);
}

// A CSR of byte strings, checked once per call.
struct Strings {
  const std::int64_t* indptr;
  const char* bytes;
  std::int64_t count;

  Strings(const char* name, const TensorView& offsets, const TensorView& data)
      : indptr(column<std::int64_t>(name, offsets, DType::i64)),
        bytes(reinterpret_cast<const char*>(column<std::uint8_t>(name, data, DType::u8))),
        count(offsets.shape[0] - 1) {
    FASTSI_CHECK(count >= 0 && indptr[0] == 0 && indptr[count] <= data.shape[0], name,
                 ": offsets must begin with 0 and end within the bytes");
  }
  Text operator[](std::int64_t i) const {
    return {bytes + indptr[i], static_cast<std::size_t>(indptr[i + 1] - indptr[i])};
  }
};

}  // namespace

std::int64_t first_answer(std::string_view text, std::int64_t begin, bool thinking) {
  return scan(text, 0, static_cast<std::size_t>(std::max<std::int64_t>(begin, 0)), &thinking);
}

void match_stop(const TensorView& tokens, const TensorView& slots, const TokenBytes& table,
                const StopRules& rules, const StopState& state, const TensorView& hit) {
  const std::int64_t rows = tokens.shape[0];
  const auto* token = vector_of<std::int64_t>("tokens", tokens, DType::i64, rows);
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  auto* out = writable<std::uint8_t>("hit", hit, DType::u8, rows);
  const Strings bytes("table", table.offsets, table.data);
  const auto* flags = vector_of<std::uint8_t>("flags", table.flags, DType::u8, bytes.count);
  const Strings strings("string_indptr", rules.string_indptr, rules.string_bytes);
  const auto* classes = column<std::int64_t>("class_indptr", rules.class_indptr, DType::i64);
  const std::int64_t num_classes = rules.class_indptr.shape[0] - 1;
  const auto* answers = vector_of<std::uint8_t>("answers", rules.answers, DType::u8, num_classes);
  const auto* special = vector_of<std::uint8_t>("special", rules.special, DType::u8, num_classes);
  require_dims("tail", state.tail, 2);
  require_dtype("tail", state.tail, DType::u8);
  require_contiguous("tail", state.tail);
  const std::int64_t capacity = state.tail.shape[0], width = state.tail.shape[1];
  const auto* rule = vector_of<std::int32_t>("rule", state.rule, DType::i32, capacity);
  auto* length = writable<std::int32_t>("length", state.length, DType::i32, capacity);
  auto* thinking = writable<std::uint8_t>("thinking", state.thinking, DType::u8, capacity);
  std::string text;
  for (std::int64_t r = 0; r < rows; ++r) {
    out[r] = 0;
    FASTSI_CHECK(0 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in 0..", capacity - 1);
    const std::int64_t s = slot[r], which = rule[s];
    if (which < 0) continue;
    FASTSI_CHECK(which < num_classes, "rule[", s, "]: is ", which, ", there are ", num_classes);
    FASTSI_CHECK(token[r] >= 0, "tokens[", r, "]: is ", token[r], ", must be at least 0");
    const bool spelled =
        token[r] < bytes.count && (special[which] || !(flags[token[r]] & kSpecialToken));
    if (!spelled) continue;
    FASTSI_CHECK(0 <= length[s] && length[s] <= width, "length[", s, "]: is ", length[s]);
    char* tail = static_cast<char*>(state.tail.data) + s * width;
    const auto had = static_cast<std::size_t>(length[s]);
    text.assign(tail, had);
    text += bytes[token[r]];
    for (std::int64_t i = classes[which]; i < classes[which + 1] && !out[r]; ++i) {
      const std::size_t from = had - std::min(had, strings[i].size() - 1);
      out[r] = text.find(strings[i], from) != kNone;
    }
    bool thinks = thinking[s] != 0;
    if (answers[which] && scan(text, had, 0, &thinks) >= 0) out[r] = 1;
    thinking[s] = thinks;
    const std::size_t keep = std::min(text.size(), static_cast<std::size_t>(width));
    std::memcpy(tail, text.data() + text.size() - keep, keep);
    length[s] = static_cast<std::int32_t>(keep);
  }
}

}  // namespace fastsi
