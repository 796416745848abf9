#include "fastsi/vote.h"

#include "fastsi/vote_device.h"
#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr std::size_t kLong = 1000;  // characters
constexpr int kRounds = 6;

std::string integer_key(bool negative, std::string_view digits) {
  std::string plain;
  for (const char c : digits) {
    if (is_digit(c) && !(plain.empty() && c == '0')) plain.push_back(c);
  }
  if (plain.empty()) return "num:0";
  return (negative ? "num:-" : "num:") + plain;
}

Key read_key(Reading& reading, std::string_view span, int depth);

Key read_parts(Reading& reading, std::string_view span, int depth) {
  const Part part = [&](std::string_view text) { return read_key(reading, trim(text), depth + 1); };
  Key key = read_bracketed(reading, span, part);
  if (!key) key = read_union(span, part);
  if (!key) key = read_matrix(span, part);
  if (!key) key = read_plus_minus(reading, span);
  if (!key) key = read_ratio(reading, span);
  if (!key) key = read_range(reading, span);
  if (!key && depth == 0) key = read_list(reading, span, part);
  return key ? key : read_phrase(reading, span, part);
}

// Key of a cleaned span; `depth` counts the brackets around it.
Key read_key(Reading& reading, std::string_view span, int depth) {
  if (span.empty() || reading.host) return {};
  Key key = read_bool(span);
  if (!key) key = read_choice(span);
  if (key) return key;
  if (digits_end(span, 0) == span.size()) return integer_key(false, span);
  key = read_number_phrase(reading, span);
  if (!key && depth < kMaxDepth) key = read_parts(reading, span, depth);
  return key ? key : opaque(span);
}

bool is_ascii_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// A long plain integer, of any size; nothing for other texts.
Key long_integer(std::string_view text) {
  std::size_t at = 0;
  while (is_ascii_blank(char_at(text, at))) ++at;
  at = skip(text, at, '$');
  const bool negative = char_at(text, at) == '-';
  if (negative || char_at(text, at) == '+') ++at;
  at = skip(text, at, '$');
  const std::size_t begin = at;
  at = digits_end(text, at);
  if (at > begin && at - begin <= 3) {
    while (char_at(text, at) == ',' && digits_end(text, at + 1) == at + 4) at += 4;
  }
  const std::size_t end = at;
  at = skip(text, at, '.');
  while (is_ascii_blank(char_at(text, at))) ++at;
  if (end == begin || at != text.size()) return {};
  return integer_key(negative, text.substr(begin, end - begin));
}

}  // namespace

std::string render(std::string_view key) {
  const std::size_t colon = key.find(':');
  std::string body(key.substr(colon == kNone ? key.size() : colon + 1));
  if (key.substr(0, colon) == "ratio") {
    std::string spaced;  // 1:10 is a time
    for (const char c : body) c == ':' ? spaced.append(" : ") : spaced.append(1, c);
    return spaced;
  }
  if (key.substr(0, colon) != "choice") return body;
  for (char& c : body) c = is_alpha(c) ? static_cast<char>(c & ~0x20) : c;
  return "(" + body + ")";
}

std::string name_of(const DeviceKey& key) {
  std::string name;
  switch (key.kind) {
    case DeviceKind::number:
      name.assign("num:").append(std::to_string(key.numerator));
      if (key.denominator != 1) name.append("/").append(std::to_string(key.denominator));
      break;
    case DeviceKind::choice:
      name.assign("choice:").push_back(static_cast<char>(key.numerator));
      break;
    case DeviceKind::boolean:
      name.assign(key.numerator != 0 ? "bool:yes" : "bool:no");
      break;
  }
  return name;
}

Status key_of_answer(std::string_view text, std::string* key) {
  DeviceKey found;
  if (text.size() <= device::kMaxSpan &&
      device_key(text.data(), static_cast<int>(text.size()), &found)) {
    *key = name_of(found);
    return Status::key;
  }
  std::string storage;
  text = valid_utf8(text, &storage);
  if (text.size() > kLong && count_chars(text) > kLong) {
    if (const Key whole = long_integer(text)) {
      *key = *whole;
      return Status::key;
    }
    const std::string_view own = strip(text);
    if (own.size() > kMaxSpan) {
      if (count_chars(own) != own.size()) return Status::host;
      key->assign("text:").append(own);
      return Status::key;
    }
  }
  // A text key is the fixed point of its own reading: what it reads as is what it is.
  std::string last(text), span;
  for (int round = 0; round < kRounds; ++round) {
    if (!clean(last, &span)) return Status::host;
    Reading reading;
    Key read = read_key(reading, span, 0);
    if (reading.host) return Status::host;
    if (!read) return Status::none;
    const bool fixed = !is_text(*read) || std::string_view(*read).substr(5) == last;
    if (fixed) {
      *key = std::move(*read);
      return Status::key;
    }
    last = read->substr(5);
  }
  return Status::none;
}

}  // namespace fastsi::vote
