#include <cstdint>

#include "reading.h"

namespace fastsi::vote {
namespace {

std::uint32_t decode(std::string_view text, std::size_t at, std::size_t bytes) {
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[at + i]));
  };
  if (bytes == 2) return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
  if (bytes == 3) return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

// ASCII spelling of one character, as in _FOLD of fastsi/vote/clean.py; null where it has none.
const char* spelling(std::uint32_t c) {
  switch (c) {
    case 0x2010:
    case 0x2011:
    case 0x2012:
    case 0x2013:
    case 0x2212:
    case 0xFE63:
    case 0x02D7:
      return "-";
    case 0x2014:
    case 0x2015:
      return " - ";
    case 0x00D7:
    case 0x22C5:
    case 0x00B7:
    case 0x2217:
    case 0x2219:
      return "*";
    case 0x00F7:
    case 0x2044:
    case 0x2215:
      return "/";
    case 0x200B:
    case 0x200C:
    case 0x200D:
    case 0x2060:
    case 0xFEFF:
    case 0x00AD:
    case 0x200E:
    case 0x200F:
      return "";
    case 0x2018:
    case 0x2019:
    case 0x201B:
    case 0x2032:
      return "'";
    case 0x201C:
    case 0x201D:
    case 0x201F:
    case 0x2033:
    case 0x00AB:
    case 0x00BB:
      return "\"";
    case 0x20AC:
    case 0x00A3:
    case 0x00A5:
    case 0x20B9:
    case 0xFFE5:
    case 0xFFE1:
    case 0x20A9:
    case 0x20BD:
      return "$";
    case 0x2248:
    case 0x2243:
    case 0x2245:
      return "=";
    case 0x00BC:
      return " 1/4 ";
    case 0x00BD:
      return " 1/2 ";
    case 0x00BE:
      return " 3/4 ";
    case 0x2150:
      return " 1/7 ";
    case 0x2151:
      return " 1/9 ";
    case 0x2152:
      return " 1/10 ";
    case 0x2153:
      return " 1/3 ";
    case 0x2154:
      return " 2/3 ";
    case 0x2155:
      return " 1/5 ";
    case 0x2156:
      return " 2/5 ";
    case 0x2157:
      return " 3/5 ";
    case 0x2158:
      return " 4/5 ";
    case 0x2159:
      return " 1/6 ";
    case 0x215A:
      return " 5/6 ";
    case 0x215B:
      return " 1/8 ";
    case 0x215C:
      return " 3/8 ";
    case 0x215D:
      return " 5/8 ";
    case 0x215E:
      return " 7/8 ";
    case 0x00B0:
    case 0x00BA:
    case 0x02DA:
      return " degrees ";
    case 0x2103:
      return " degrees C";
    case 0x2109:
      return " degrees F";
    case 0x221E:
      return "\\infty ";
    case 0x03C0:
      return "\\pi ";
    case 0x221A:
      return "\\sqrt ";
    case 0x00B1:
      return "\\pm ";
    case 0x2264:
      return "\\le ";
    case 0x2265:
      return "\\ge ";
    case 0x2260:
      return "\\ne ";
    case 0x2208:
      return "\\in ";
    case 0x222A:
      return "\\cup ";
    case 0x2229:
      return "\\cap ";
    case 0x2205:
      return "\\emptyset ";
    case 0x27E8:
      return "\\langle ";
    case 0x27E9:
      return "\\rangle ";
    case 0x2236:
      return ":";
    case 0x00B5:
      return "u";
    case 0x2026:
      return "...";
    case 0x3002:
      return ". ";
    case 0x3001:
    case 0xFF0C:
      return ", ";
    case 0x066B:
      return ".";
    case 0x066C:
      return ",";
    case 0x00A2:
      return " cents";
    default:
      return nullptr;
  }
}

bool is_space(std::uint32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Zeros of the decimal digits of scripts that answers are written in.
int decimal_digit(std::uint32_t c) {
  for (const std::uint32_t zero : {0x0660U, 0x06F0U, 0x0966U, 0x09E6U, 0x0BE6U, 0x0C66U, 0x0E50U}) {
    if (c >= zero && c < zero + 10) return static_cast<int>(c - zero);
  }
  return -1;
}

// 0 to 9, '+' and '-' raised (2070 and on) or lowered; 0 for other characters.
char raised(std::uint32_t c, bool* low) {
  *low = c >= 0x2080;
  if (c == 0xB9) return '1';
  if (c == 0xB2) return '2';
  if (c == 0xB3) return '3';
  if (c == 0x2071 || c == 0x2072 || c == 0x2073) return 0;  // not digits, or another one's place
  const std::uint32_t rank = c - (*low ? 0x2080 : 0x2070);
  if (rank < 10) return static_cast<char>('0' + rank);
  return rank == 10 ? '+' : rank == 11 ? '-' : 0;
}

// Letters that compose with none of their like and whose lower case is simple: Latin-1, Greek,
// Cyrillic, kana, Chinese, Hangul.
bool is_plain_letter(std::uint32_t c) {
  return (c >= 0xC0 && c <= 0xFF && c != 0xD7 && c != 0xF7 && c != 0xDF) ||
         (c >= 0x391 && c <= 0x3C9 && c != 0x3A2 && c != 0x3C2 && (c <= 0x3A9 || c >= 0x3B1)) ||
         (c >= 0x410 && c <= 0x44F) || (c >= 0x3041 && c <= 0x3096) ||
         (c >= 0x30A1 && c <= 0x30FA) || (c >= 0x4E00 && c <= 0x9FFF) ||
         (c >= 0xAC00 && c <= 0xD7A3);
}

}  // namespace

bool fold_unicode(std::string_view text, std::string* plain) {
  plain->clear();
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = char_bytes(text, at);
    if (bytes == 1) {
      plain->push_back(text[at++]);
      continue;
    }
    std::uint32_t c = decode(text, at, bytes);
    bool low = false;
    if (raised(c, &low) != 0) {
      std::string run;
      bool run_low = low, digits = false;
      while (at < text.size()) {
        const std::size_t size = char_bytes(text, at);
        const char sign = size == 1 ? '\0' : raised(decode(text, at, size), &run_low);
        if (sign == 0 || run_low != low) break;
        digits = digits || is_digit(sign);
        run.push_back(sign);
        at += size;
      }
      plain->append(digits ? (low ? "_{" : "^{") + run + "}" : run);
      continue;
    }
    if (const char* known = spelling(c)) {
      plain->append(known);
    } else if (c >= 0xFF01 && c <= 0xFF5E) {
      plain->push_back(static_cast<char>(c - 0xFEE0));
    } else if (is_space(c)) {
      plain->push_back(' ');
    } else if (const int digit = decimal_digit(c); digit >= 0) {
      plain->push_back(static_cast<char>('0' + digit));
    } else if (is_plain_letter(c)) {
      plain->append(text.substr(at, bytes));
    } else {
      return false;
    }
    at += bytes;
  }
  return true;
}

}  // namespace fastsi::vote
