#include "text.h"

#include <cstdint>

#include "fastsi/vote.h"

namespace fastsi::vote {
namespace {

// Bytes of the valid character at `at`, or 0; `*wrong` is then how many bytes to replace.
std::size_t valid_char(std::string_view text, std::size_t at, std::size_t* wrong) {
  const auto byte = [&](std::size_t i) {
    return static_cast<unsigned char>(char_at(text, at + i));
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  *wrong = 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const std::size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Bounds of the second byte: no overlong forms, no surrogates, nothing beyond U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < bytes; ++i) {
    *wrong = i;
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return bytes;
}

bool is_ascii(std::string_view text) {
  std::uint64_t all = 0;
  std::size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    all |= word;
  }
  for (; at < text.size(); ++at) all |= static_cast<unsigned char>(text[at]);
  return (all & 0x8080808080808080U) == 0;
}

}  // namespace

std::string_view strip_left(std::string_view text) {
  std::size_t at = 0;
  while (const std::size_t bytes = space_at(text, at)) at += bytes;
  return text.substr(at);
}

std::string_view strip(std::string_view text) {
  text = strip_left(text);
  while (space_before(text, text.size())) text.remove_suffix(bytes_before(text, text.size()));
  return text;
}

std::string_view valid_utf8(std::string_view text, std::string* storage) {
  if (is_ascii(text)) return text;
  bool copied = false;
  std::size_t kept = 0;  // what stands before is in the copy
  for (std::size_t at = 0; at < text.size();) {
    std::size_t wrong = 0;
    if (const std::size_t bytes = valid_char(text, at, &wrong)) {
      at += bytes;
      continue;
    }
    if (!copied) storage->clear();
    copied = true;
    storage->append(text.substr(kept, at - kept)).append("\xEF\xBF\xBD");
    at += wrong;
    kept = at;
  }
  if (!copied) return text;
  storage->append(text.substr(kept));
  return *storage;
}

}  // namespace fastsi::vote
