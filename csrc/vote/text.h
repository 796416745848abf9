// Small tools for UTF-8 text. Letters, digits and case are ASCII's, as in the Python reference;
// positions are byte offsets at character boundaries.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

namespace fastsi::vote {

inline constexpr std::size_t kNone = std::string_view::npos;

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }
inline char lower(char c) { return static_cast<unsigned char>(c - 'A') < 26 ? c | 0x20 : c; }
inline bool is_alpha(char c) { return static_cast<unsigned char>((c | 0x20) - 'a') < 26; }
inline bool is_word(char c) { return is_alpha(c) || is_digit(c) || c == '_'; }

// The byte at `at`, 0 beyond the end.
inline char char_at(std::string_view text, std::size_t at) {
  return at < text.size() ? text[at] : '\0';
}

inline bool starts_at(std::string_view text, std::size_t at, std::string_view word) {
  return at <= text.size() && text.size() - at >= word.size() &&
         std::memcmp(text.data() + at, word.data(), word.size()) == 0;
}

// The same for a word in lower case, in any case of the text's letters.
inline bool starts_at_any_case(std::string_view text, std::size_t at, std::string_view word) {
  if (at > text.size() || text.size() - at < word.size()) return false;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (lower(text[at + i]) != word[i]) return false;
  }
  return true;
}

// First occurrence of a character or word from `from` on, kNone if there is none.
inline std::size_t find_char(std::string_view text, char c, std::size_t from) {
  if (from >= text.size()) return kNone;
  const void* found = std::memchr(text.data() + from, c, text.size() - from);
  return found == nullptr ? kNone
                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}
inline std::size_t find_word(std::string_view text, std::string_view word, std::size_t from) {
  std::size_t at = find_char(text, word[0], from);
  while (at != kNone && !starts_at(text, at, word)) at = find_char(text, word[0], at + 1);
  return at;
}

// Bytes of the character that begins at `at`; the text is valid.
inline std::size_t char_bytes(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Bytes of the character that ends before `at` > 0.
inline std::size_t bytes_before(std::string_view text, std::size_t at) {
  std::size_t bytes = 1;
  while (bytes < at && (static_cast<unsigned char>(text[at - bytes]) & 0xC0) == 0x80) ++bytes;
  return bytes;
}

// Bytes of the blank at `at`, 0 where there is none: ASCII blanks of a line, U+00A0, U+202F,
// U+3000.
inline std::size_t blank_at(std::string_view text, std::size_t at) {
  const char c = char_at(text, at);
  if (c == ' ' || c == '\t' || c == '\r') return 1;
  if (static_cast<signed char>(c) >= 0) return 0;
  if (starts_at(text, at, "\xC2\xA0")) return 2;
  return starts_at(text, at, "\xE2\x80\xAF") || starts_at(text, at, "\xE3\x80\x80") ? 3 : 0;
}

// The same, line ends included.
inline std::size_t space_at(std::string_view text, std::size_t at) {
  const char c = char_at(text, at);
  return c == '\n' || c == '\v' || c == '\f' ? 1 : blank_at(text, at);
}

// Whether the character before `at` is a blank or a line end.
inline bool space_before(std::string_view text, std::size_t at) {
  for (std::size_t bytes = 1; bytes <= 3 && bytes <= at; ++bytes) {
    if (space_at(text, at - bytes) == bytes) return true;
  }
  return false;
}

// Position after at most `most` blanks.
inline std::size_t skip_blanks(std::string_view text, std::size_t at, int most) {
  for (std::size_t bytes; most > 0 && (bytes = blank_at(text, at)) != 0; --most) at += bytes;
  return at;
}

// Without blanks and line ends at the start, or at both ends.
std::string_view strip_left(std::string_view text);
std::string_view strip(std::string_view text);

// Whether a key found for an answer is opaque text.
inline bool is_text(std::string_view key) { return key.substr(0, 5) == "text:"; }

}  // namespace fastsi::vote
