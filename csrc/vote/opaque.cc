#include "reading.h"

namespace fastsi::vote {
namespace {

bool is_alnum(char c) { return is_alpha(c) || is_digit(c); }

// The word at `at` where no letter stands before or behind it.
bool is_word_at(std::string_view text, std::size_t at, std::string_view word) {
  return starts_at(text, at, word) && !is_alpha(char_at(text, at + word.size())) &&
         (at == 0 || !is_alpha(text[at - 1]));
}

bool is_mathematics(std::string_view span) {
  for (std::size_t at = 0; at < span.size(); ++at) {
    const char c = span[at], next = char_at(span, at + 1);
    if (has("\\^_=<>|+*/{}", c)) return true;
    if ((is_digit(c) && is_alpha(next)) || (is_alpha(c) && is_digit(next))) return true;
    if (!has("psi", c)) continue;
    for (const std::string_view word : {"pi", "sqrt", "infinity", "inf"}) {
      if (is_word_at(span, at, word)) return true;
    }
  }
  return false;
}

// Calls visit(at, &out): the position after what it has rewritten there, or kNone to copy one byte.
template <class Visit>
std::string rewritten(std::string_view text, Visit visit) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = visit(at, &out);
    if (end == kNone) {
      out.push_back(text[at++]);
    } else {
      at = end;
    }
  }
  return out;
}

std::string with_relations(std::string_view text) {
  return rewritten(text, [&](std::size_t at, std::string* out) {
    if (char_at(text, at + 1) != '=' || !has("<>", text[at])) return kNone;
    out->append(text[at] == '<' ? "\\le " : "\\ge ");
    return at + 2;
  });
}

// sqrt(x), \sqrt(x), sqrt {x}: \sqrt{x}.
std::string with_roots(std::string_view text) {
  return rewritten(text, [&](std::size_t at, std::string* out) {
    std::size_t word = at;
    if (text[at] == '\\') {
      ++word;
    } else if (at > 0 && (is_alpha(text[at - 1]) || text[at - 1] == '\\')) {
      return kNone;
    }
    if (!starts_at(text, word, "sqrt")) return kNone;
    const std::size_t open = skip(text, word + 4, ' ');
    const char close = char_at(text, open) == '(' ? ')' : char_at(text, open) == '{' ? '}' : '\0';
    std::size_t end = open + 1;
    while (is_alnum(char_at(text, end))) ++end;
    if (close == '\0' || end == open + 1 || char_at(text, end) != close) return kNone;
    out->append("\\sqrt{").append(text.substr(open + 1, end - open - 1)).push_back('}');
    return end + 1;
  });
}

std::string with_constants(std::string_view text) {
  return rewritten(text, [&](std::size_t at, std::string* out) {
    if (!has("pi", text[at]) || (at > 0 && (is_alpha(text[at - 1]) || text[at - 1] == '\\'))) {
      return kNone;
    }
    if (starts_at(text, at, "pi") && !is_alpha(char_at(text, at + 2))) {
      out->append("\\pi ");
      return at + 2;
    }
    const std::size_t word = starts_at(text, at, "positive ") ? at + 9 : at;
    for (const std::string_view name : {"infinity", "inf"}) {
      if (!starts_at(text, word, name) || is_alpha(char_at(text, word + name.size()))) continue;
      out->append("\\infty ");
      return word + name.size();
    }
    return kNone;
  });
}

std::string with_signs(std::string_view text) {
  return rewritten(text, [&](std::size_t at, std::string* out) {
    for (const std::string_view word : {"negative ", "minus "}) {
      if (!starts_at(text, at, word) || char_at(text, at + word.size()) != '\\') continue;
      out->push_back('-');
      return at + word.size();
    }
    return kNone;
  });
}

// Without the signs of products whose factors may stand side by side: 2 * x, 2 x.
std::string without_stars(std::string_view text) {
  const std::string joined = rewritten(text, [&](std::size_t at, std::string*) {
    if (at == 0 || !(is_alnum(text[at - 1]) || has(")}", text[at - 1]))) return kNone;
    const std::size_t star = skip(text, at, ' ');
    if (char_at(text, star) != '*') return kNone;
    const std::size_t end = skip(text, star + 1, ' ');
    const char next = char_at(text, end);
    return is_alpha(next) || next == '\\' || next == '(' ? end : kNone;
  });
  return rewritten(joined, [&](std::size_t at, std::string*) {
    const bool blank = at > 0 && joined[at] == ' ' && is_digit(joined[at - 1]) &&
                       is_alpha(char_at(joined, at + 1)) && !is_alpha(char_at(joined, at + 2));
    return blank ? at + 1 : kNone;
  });
}

std::string without_blanks(std::string_view text) {
  const std::string tight = rewritten(text, [&](std::size_t at, std::string* out) {
    const std::size_t sign = skip(text, at, ' ');
    if (sign < text.size() && has("-+*/=^_<>|(){}[],;:", text[sign])) {
      out->push_back(text[sign]);
      return skip(text, sign + 1, ' ');
    }
    return sign > at && char_at(text, sign) == '\\' ? sign : kNone;
  });
  return rewritten(tight, [&](std::size_t at, std::string* out) {
    const std::size_t end = letters_end(tight, at + 1);
    if (tight[at] != '\\' || end == at + 1 || char_at(tight, end) != ' ' ||
        is_alpha(char_at(tight, end + 1))) {
      return kNone;
    }
    out->append(tight, at, end - at);
    return end + 1;
  });
}

// One spelling of products, roots and constants; nothing is computed.
std::string mathematics(std::string_view span) {
  const std::string plain =
      without_blanks(without_stars(with_signs(with_constants(with_roots(with_relations(span))))));
  std::string_view result = trim(plain);
  if (char_at(result, 0) == '+') result.remove_prefix(1);
  return result == "{}" ? "\\emptyset" : std::string(result);
}

// Lower case of ASCII and of the letters beyond it that fold_unicode lets through.
std::string folded(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = char_bytes(text, at);
    if (bytes != 2) {
      if (bytes == 1) {
        out.push_back(lower(text[at]));
      } else {
        out.append(text.substr(at, bytes));
      }
      at += bytes;
      continue;
    }
    unsigned c = (static_cast<unsigned char>(text[at]) & 0x1Fu) << 6 |
                 (static_cast<unsigned char>(text[at + 1]) & 0x3Fu);
    const bool capital =
        (c >= 0xC0 && c <= 0xDE) || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F);
    if (capital) c += 0x20;
    out.push_back(static_cast<char>(0xC0 | c >> 6));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    at += 2;
  }
  return out;
}

// Whether the last two characters are letters; those beyond ASCII that come this far are.
bool ends_in_letters(std::string_view text) {
  for (int i = 0; i < 2; ++i) {
    if (text.empty()) return false;
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!is_alpha(text[at]) && static_cast<unsigned char>(text[at]) < 0x80) return false;
    text = text.substr(0, at);
  }
  return true;
}

std::string prose(std::string_view span) {
  const std::string lower_case = folded(span);
  std::string_view text = lower_case;
  for (const std::string_view article : {"the ", "an ", "a "}) {
    const std::size_t at = article.size();
    const auto small = [&](std::size_t i) {
      return char_at(text, i) >= 'a' && char_at(text, i) <= 'z';
    };
    if (!starts_with(text, article) || !small(at) || !small(at + 1)) continue;
    text.remove_prefix(at);
    break;
  }
  const std::size_t last = text.find_last_not_of('!');
  const std::string_view called = text.substr(0, last == kNone ? 0 : last + 1);
  if (ends_in_letters(called)) text = called;  // "n!" is a factorial
  return text == "empty set" ? "\\emptyset" : std::string(text);
}

}  // namespace

Key opaque(std::string_view span) {
  std::string plain(span);
  for (char& c : plain) c = c == kUnit ? ' ' : c;
  plain = count_chars(plain) == 1 || is_mathematics(plain) ? mathematics(plain) : prose(plain);
  if (trim(plain, " .!-").empty()) return {};
  return "text:" + plain;
}

}  // namespace fastsi::vote
