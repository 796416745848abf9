#include <algorithm>
#include <cstdint>
#include <iterator>

#include "reading.h"

namespace fastsi::vote {
namespace {

template <std::size_t Size>
bool is_one_of(std::string_view name, const std::string_view (&names)[Size]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

constexpr std::string_view kDecoration[] = {
    "left", "right", "big",   "Big",   "bigg",  "Bigg",         "bigl",      "bigr",   "Bigl",
    "Bigr", "biggl", "biggr", "Biggl", "Biggr", "displaystyle", "textstyle", "limits", "mathstrut"};
constexpr std::string_view kBlanks[] = {"quad", "qquad", "thinspace", "enspace"};
constexpr std::string_view kFractions[] = {"dfrac", "tfrac", "cfrac"};
constexpr std::string_view kText[] = {"text",   "mathrm", "textrm",       "textit", "textbf",
                                      "textsf", "mbox",   "operatorname", "unit"};
constexpr std::string_view kWrap[] = {"boxed",     "fbox", "mathbf", "boldsymbol", "bm", "mathit",
                                      "underline", "emph", "mathsf", "bf",         "rm"};

// Whether text[at, end) separates a digit from a group of three.
bool joins(std::string_view text, std::size_t at, std::size_t end) {
  return at > 0 && is_digit(text[at - 1]) && digits_end(text, end) == end + 3;
}

std::size_t skip_space(std::string_view text, std::size_t at) {
  while (at < text.size() && has(" \t\n\r", text[at])) ++at;
  return at;
}
std::size_t skip_all(std::string_view text, std::size_t at, char c) {
  while (char_at(text, at) == c && at < text.size()) ++at;
  return at;
}

// Without \left, \, and {,} and the like; blanks for ~ and \quad.
std::string plain_commands(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '{' && has(", ", char_at(text, at + 1)) && char_at(text, at + 2) == '}' &&
        joins(text, at, at + 3)) {
      at += 3;
    } else if (c != '\\') {
      out.push_back(c == '~' ? ' ' : c);
      ++at;
    } else {
      const std::size_t end = letters_end(text, at + 1);
      const std::string_view name = text.substr(at + 1, end - at - 1);
      if (!name.empty()) {
        if (is_one_of(name, kBlanks)) {
          out.push_back(' ');
        } else if (is_one_of(name, kFractions)) {
          out.append("\\frac");
        } else if (!is_one_of(name, kDecoration)) {
          out.append(text.substr(at, end - at));
        }
        at = end;
        continue;
      }
      const char sign = char_at(text, end);
      if (end >= text.size()) {
        out.push_back('\\');
      } else if (has(",;:> ", sign) && !(sign == ',' && joins(text, at, at + 2))) {
        out.push_back(' ');
      } else if (sign != '!' && sign != ',') {
        out.push_back('\\');
        out.push_back(sign);
      }
      at = end + 1;
    }
  }
  return out;
}

constexpr std::uint32_t kOpen = UINT32_MAX;

// Where each brace that is closed is closed, kOpen elsewhere; escaped braces are none.
std::vector<std::uint32_t> braces(std::string_view text) {
  std::vector<std::uint32_t> closed(text.size(), kOpen), stack;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == '{') {
      stack.push_back(static_cast<std::uint32_t>(at));
    } else if (text[at] == '}' && !stack.empty()) {
      closed[stack.back()] = static_cast<std::uint32_t>(at);
      stack.pop_back();
    }
  }
  return closed;
}

// One or two letters: a unit that would be a variable outside \text{}.
bool is_symbol_unit(std::string_view content) {
  std::size_t at = skip_all(content, 0, ' ');
  if (!is_alpha(char_at(content, at))) return false;
  ++at;
  std::size_t second = at;
  while (second < content.size() && has(" /.", content[second])) ++second;
  if (is_alpha(char_at(content, second))) at = second + 1;
  while (at < content.size() && has(" .", content[at])) ++at;
  return at == content.size();
}

bool follows_digit(std::string_view text, std::size_t at) {
  while (at > 0 && text[at - 1] == ' ') --at;
  return at > 0 && is_digit(text[at - 1]);
}

// \boxed{x} as x and \text{x} as " x ", at any depth.
std::string unwrapped(std::string_view text) {
  const std::vector<std::uint32_t> closed = braces(text);
  std::string ends(text.size(), 0);  // at a closing brace: 1 drops it, 2 makes it a blank
  std::string out;
  out.reserve(text.size() + 8);
  for (std::size_t at = 0; at < text.size();) {
    if (ends[at] != 0) {
      if (ends[at] == 2) out.push_back(' ');
      ++at;
      continue;
    }
    if (text[at] != '\\') {
      out.push_back(text[at++]);
      continue;
    }
    const std::size_t end = letters_end(text, at + 1);
    const std::string_view name = text.substr(at + 1, end - at - 1);
    const std::size_t brace = skip_space(text, end);
    const bool is_text = is_one_of(name, kText);
    if ((is_text || is_one_of(name, kWrap)) && brace < text.size() && closed[brace] != kOpen) {
      const std::size_t close = closed[brace];
      ends[close] = 1;
      if (is_text) {
        const std::string_view content = text.substr(brace + 1, close - brace - 1);
        out.push_back(is_symbol_unit(content) && follows_digit(text, at) ? kUnit : ' ');
        if (char_at(text, skip_space(text, close + 1)) != '^') ends[close] = 2;
      }
      at = brace + 1;
    } else {
      const std::size_t next = std::min(std::max(end, at + 2), text.size());
      out.append(text.substr(at, next - at));
      at = next;
    }
  }
  return out;
}

bool is_numeral(std::string_view text) {
  text = trim(text);
  std::size_t at = !text.empty() && has("+-", text[0]) ? 1 : 0;
  if (!is_digit(char_at(text, at))) return false;
  while (at < text.size() && (is_digit(text[at]) || has(",.", text[at]))) ++at;
  return at == text.size();
}

bool is_alnum(char c) { return is_alpha(c) || is_digit(c); }
std::size_t alnum_end(std::string_view text, std::size_t at) {
  while (is_alnum(char_at(text, at))) ++at;
  return at;
}

// Numbers, letters, commands, simple groups and powers, one after another.
bool is_product(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    if (is_alnum(text[at]) || text[at] == '.' || text[at] == '^') {
      ++at;
    } else if (text[at] == '\\') {
      const std::size_t end = letters_end(text, at + 1);
      if (end == at + 1) return false;
      at = skip(text, end, ' ');
    } else if (text[at] == '{') {
      at = alnum_end(text, at + 1);
      if (char_at(text, at) != '}') return false;
      ++at;
    } else {
      return false;
    }
  }
  return at > 0;
}

// A number, a letter, a command or a root.
bool is_factor(std::string_view text) {
  if (text.empty()) return false;
  if (is_digit(text[0])) return digits_end(text, 0) == text.size();
  if (is_alpha(text[0])) return text.size() == 1;
  if (text[0] != '\\') return false;
  const std::size_t end = letters_end(text, 1);
  if (end == text.size()) return end > 1;
  if (text.substr(0, end) != "\\sqrt") return false;
  const std::size_t root = skip(text, end, ' ');
  if (char_at(text, root) != '{') {
    const std::size_t one = is_alpha(char_at(text, root)) ? root + 1 : digits_end(text, root);
    return one > root && one == text.size();
  }
  const std::size_t close = alnum_end(text, root + 1);
  return close > root + 1 && char_at(text, close) == '}' && close + 1 == text.size();
}

// The group or the digit at `*at`; moves past it.
bool argument(std::string_view text, const std::vector<std::uint32_t>& closed, std::size_t* at,
              std::string_view* content) {
  *at = skip_space(text, *at);
  if (*at < text.size() && closed[*at] != kOpen) {
    *content = text.substr(*at + 1, closed[*at] - *at - 1);
    *at = closed[*at] + 1;
    return true;
  }
  if (!is_digit(char_at(text, *at))) return false;
  *content = text.substr(*at, 1);
  ++*at;
  return true;
}

bool is_plain_fraction(std::string_view top, std::string_view bottom) {
  if (is_numeral(top) && is_numeral(bottom)) return true;
  top = trim(top);
  if (char_at(top, 0) == '-') top.remove_prefix(1);
  return is_product(top) && is_factor(trim(bottom));
}

// \frac{3}{4} as " 3/4 ", \frac{\pi}{2} as " \pi/2 "; others stay.
std::string fractions(std::string_view text) {
  if (text.find("\\frac") == kNone) return std::string(text);
  const std::vector<std::uint32_t> closed = braces(text);
  std::string out;
  char last = '\0';  // the last character written that is no blank
  for (std::size_t at = 0; at < text.size();) {
    if (!(starts_at(text, at, "\\frac") && !is_alpha(char_at(text, at + 5)))) {
      const std::size_t bytes = text[at] == '\\' && at + 1 < text.size() ? 2 : 1;
      out.append(text.substr(at, bytes));
      for (const char c : text.substr(at, bytes)) last = c == ' ' ? last : c;
      at += bytes;
      continue;
    }
    std::size_t end = at + 5;
    std::string_view top, bottom;
    if (!argument(text, closed, &end, &top) || !argument(text, closed, &end, &bottom) ||
        !is_plain_fraction(top, bottom)) {
      out.append("\\frac");
      last = 'c';
      at += 5;
      continue;
    }
    // An exponent is the whole fraction; a bar before it would divide by the whole of it.
    const bool grouped = last == '^' || last == '_' || last == '/';
    out.append(grouped ? "{" : " ").append(trim(top)).append("/").append(trim(bottom));
    out.append(grouped ? "}" : " ");
    last = grouped ? '}' : out[out.size() - 2];
    at = end;
  }
  return out;
}

// End of ^\circ, ^{\circ}, \degree or \degrees at `at`, or kNone.
std::size_t degree_end(std::string_view text, std::size_t at) {
  if (text[at] == '^') {
    at = skip_all(text, at + 1, ' ');
    const bool brace = char_at(text, at) == '{';
    if (brace) at = skip_all(text, at + 1, ' ');
    if (!starts_at(text, at, "\\circ")) return kNone;
    at += 5;
    if (!brace) return is_alpha(char_at(text, at)) ? kNone : at;
    at = skip_all(text, at, ' ');
    return char_at(text, at) == '}' ? at + 1 : kNone;
  }
  if (!starts_at(text, at, "\\degree")) return kNone;
  at += 7;
  if (char_at(text, at) == 's') ++at;
  return is_alpha(char_at(text, at)) ? kNone : at;
}

std::string degrees_and_roots(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 8);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t degree = has("^\\", text[at]) ? degree_end(text, at) : kNone;
    if (degree != kNone) {
      out.append(" degrees ");
      at = degree;
    } else {
      out.push_back(text[at++]);
    }
  }
  text = out;
  std::string roots;
  roots.reserve(text.size() + 8);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t root = starts_at(text, at, "\\sqrt") ? skip_all(text, at + 5, ' ') : kNone;
    if (root != kNone && is_alnum(char_at(text, root))) {
      at = is_alpha(text[root]) ? root + 1 : digits_end(text, root);
      roots.append("\\sqrt{").append(text, root, at - root).append("}");
    } else {
      roots.push_back(text[at++]);
    }
  }
  return roots;
}

struct Replacement {
  std::string_view name, plain;
};
constexpr Replacement kReplacements[] = {
    {"times", "*"},        {"cdot", "*"},
    {"div", "/"},          {"approx", "="},
    {"simeq", "="},        {"sim", "="},
    {"leq", "\\le "},      {"leqslant", "\\le "},
    {"geqslant", "\\ge "}, {"lt", "<"},
    {"gt", ">"},           {"colon", ":"},
    {"lor", "or"},         {"geq", "\\ge "},
    {"lbrace", "{"},       {"rbrace", "}"},
    {"lbrack", "["},       {"rbrack", "]"},
    {"dots", "..."},       {"ldots", "..."},
    {"cdots", "..."},      {"varnothing", "\\emptyset "},
    {"mathrm", ""},        {"text", ""},
};

std::string plain_names(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] != '\\') {
      out.push_back(text[at++]);
      continue;
    }
    const std::size_t end = letters_end(text, at + 1);
    const std::string_view name = text.substr(at + 1, end - at - 1);
    if (!name.empty()) {
      const auto* known = std::find_if(std::begin(kReplacements), std::end(kReplacements),
                                       [&](const Replacement& r) { return r.name == name; });
      out.append(known == std::end(kReplacements) ? text.substr(at, end - at) : known->plain);
      at = end;
      continue;
    }
    const char sign = char_at(text, end);
    if (sign == '\\') {  // two backslashes end a row
      out.append("\\\\");
      at += 2;
    } else if (end < text.size() && has("%$#&_{}()[]", sign)) {
      out.push_back(has("()[]", sign) ? ' ' : sign);
      at += 2;
    } else {
      out.push_back('\\');
      ++at;
    }
  }
  return out;
}

// ^{2} as ^2, _{n} as _n.
std::string plain_groups(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '^' || text[at] == '_') {
      const std::size_t brace = skip_all(text, at + 1, ' ');
      if (char_at(text, brace) == '{') {
        const std::size_t begin = skip_all(text, brace + 1, ' ');
        std::size_t end = begin;
        if (is_alpha(char_at(text, begin))) {
          end = begin + 1;
        } else {
          const std::size_t digits =
              begin < text.size() && has("+-", text[begin]) ? begin + 1 : begin;
          end = digits_end(text, digits);
          if (end == digits) end = begin;
        }
        const std::size_t close = skip_all(text, end, ' ');
        if (end > begin && char_at(text, close) == '}') {
          out.push_back(text[at]);
          out.append(text.substr(begin, end - begin));
          at = close + 1;
          continue;
        }
      }
    }
    out.push_back(text[at++]);
  }
  return out;
}

}  // namespace

std::string unlatex(std::string text) {
  text = fractions(unwrapped(plain_commands(text)));
  return plain_groups(plain_names(degrees_and_roots(text)));
}

}  // namespace fastsi::vote
