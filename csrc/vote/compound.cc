#include <algorithm>

#include "reading.h"

namespace fastsi::vote {
namespace {

constexpr std::size_t kMostFields = 8;  // of a ratio

char closing_of(char open) { return open == '(' ? ')' : open == '[' ? ']' : '}'; }

using Members = std::optional<std::vector<std::string_view>>;

// Splits at separators outside brackets; nothing where brackets do not balance. `separator` gives
// the end of the separator at a position, or kNone.
template <class Separator>
Members split_top(std::string_view text, Separator separator) {
  std::vector<std::string_view> parts;
  int depth = 0;
  std::size_t start = 0, at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (has("([{", c)) {
      ++depth;
    } else if (has(")]}", c)) {
      if (--depth < 0) return {};
    } else if (depth == 0) {
      const std::size_t end = separator(text, at);
      if (end != kNone) {
        parts.push_back(trim(text.substr(start, at - start)));
        at = start = end;
        continue;
      }
    }
    ++at;
  }
  if (depth != 0) return {};
  parts.push_back(trim(text.substr(start)));
  return parts;
}

std::size_t skip_spaces(std::string_view text, std::size_t at) {
  while (char_at(text, at) == ' ') ++at;
  return at;
}

std::size_t comma_blank(std::string_view text, std::size_t at) {
  if (text[at] == ';') return at + 1;
  if (text[at] != ',' || char_at(text, at + 1) != ' ') return kNone;
  return skip_spaces(text, at + 1);
}

std::size_t comma(std::string_view text, std::size_t at) {
  return has(",;", text[at]) ? at + 1 : kNone;
}

// " and " or " or " at a blank: its end.
std::size_t conjunction(std::string_view text, std::size_t at) {
  const std::size_t word = skip_spaces(text, at);
  if (word == at) return kNone;
  const std::size_t end = starts_at(text, word, "and")  ? word + 3
                          : starts_at(text, word, "or") ? word + 2
                                                        : kNone;
  return end != kNone && char_at(text, end) == ' ' ? skip_spaces(text, end) : kNone;
}

std::size_t list_separator(std::string_view text, std::size_t at) {
  if (text[at] == ';') return at + 1;
  if (text[at] == ',') {
    const std::size_t end = conjunction(text, at + 1);
    return end != kNone ? end : skip_spaces(text, at + 1);
  }
  const std::size_t end = conjunction(text, at);
  if (end != kNone) return end;
  const std::size_t sign = skip_spaces(text, at);
  return char_at(text, sign) == '&' ? skip_spaces(text, sign + 1) : kNone;
}

std::size_t cup(std::string_view text, std::size_t at) {
  if (starts_at(text, at, "\\cup")) return is_alpha(char_at(text, at + 4)) ? kNone : at + 4;
  if (text[at] != 'U') return kNone;
  const std::size_t next = skip(text, at + 1, ' ');
  return next < text.size() && has("([{", text[next]) ? at + 1 : kNone;
}

bool all_filled(const Members& members) {
  return members && std::none_of(members->begin(), members->end(),
                                 [](std::string_view member) { return member.empty(); });
}

// Whether a key can be read back from between commas and brackets.
bool is_member(const Key& key) {
  return key && !(is_text(*key) && key->find_first_of("()[]{},;") != kNone);
}

template <class Bodies>
std::string joined(const Bodies& bodies, std::string_view between) {
  std::string out;
  for (const auto& body : bodies) {
    if (&body != &bodies[0]) out.append(between);
    out.append(body);
  }
  return out;
}

// One order for the members of a set: numbers by value, then the rest by spelling.
std::string set_key(Reading& reading, std::vector<std::string> bodies) {
  struct Member {
    std::optional<Rational> value;
    std::string body;
  };
  std::vector<Member> members;
  for (std::string& body : bodies) members.push_back({read_number(reading, body), std::move(body)});
  std::stable_sort(members.begin(), members.end(), [&](const Member& a, const Member& b) {
    if (a.value.has_value() != b.value.has_value()) return a.value.has_value();
    const int order = a.value ? compare(reading, *a.value, *b.value) : 0;
    return order != 0 ? order < 0 : a.body < b.body;
  });
  for (std::size_t i = 0; i < bodies.size(); ++i) bodies[i] = std::move(members[i].body);
  return "set:{" + joined(bodies, ", ") + "}";
}

// What follows the number in a member: its unit.
std::string_view tail_of(Reading& reading, std::string_view member) {
  auto found = number_prefix(reading, member);
  if (!found) found = words_prefix(member);
  return found ? trim(member.substr(found->end)) : std::string_view();
}

// End of "x = " or "x_1 =" at the start of a member, 0 where there is none; its name.
std::size_t assignment_end(std::string_view member, std::string_view* name) {
  if (!is_alpha(char_at(member, 0))) return 0;
  const char index = char_at(member, 2);
  const std::size_t letters =
      char_at(member, 1) == '_' && (is_alpha(index) || is_digit(index)) ? 3 : 1;
  const std::size_t sign = skip(member, letters, ' ');
  if (char_at(member, sign) != '=') return 0;
  const std::size_t end = skip(member, sign + 1, ' ');
  if (end >= member.size() || member[end] == ' ') return 0;
  *name = member.substr(0, letters);
  return end;
}

std::size_t named_list_begin(std::string_view text) {
  for (const std::string_view word : {"both ", "either ", "options ", "choices ", "answers "}) {
    if (starts_at_any_case(text, 0, word)) return word.size();
  }
  return 0;
}

// "x=1, y=2": the names kept, sorted. Nothing unless each member has a name of its own.
Key named_key(const std::vector<std::string_view>& names, const std::vector<std::string>& bodies) {
  std::vector<std::pair<std::string_view, std::string>> pairs;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i].empty()) return {};
    pairs.emplace_back(names[i], bodies[i]);
  }
  std::sort(pairs.begin(), pairs.end());
  std::string key = "named:";
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (i > 0 && pairs[i].first == pairs[i - 1].first) return {};
    if (i > 0) key += ", ";
    key.append(pairs[i].first).append("=").append(pairs[i].second);
  }
  return key;
}

// The environment of a matrix that is the whole text; `*cells` is what stands in it.
std::string_view matrix_name(std::string_view text, std::string_view* cells) {
  constexpr std::string_view kBegin = "\\begin{", kEnd = "\\end{";
  if (!starts_with(text, kBegin)) return {};
  for (const std::string_view name :
       {"pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "matrix", "array"}) {
    if (!starts_at(text, kBegin.size(), name) ||
        char_at(text, kBegin.size() + name.size()) != '}') {
      continue;
    }
    std::size_t begin = kBegin.size() + name.size() + 1;
    const std::string end = std::string(kEnd) + std::string(name) + "}";
    if (text.size() < begin + end.size() || text.substr(text.size() - end.size()) != end) return {};
    *cells = text.substr(begin, text.size() - end.size() - begin);
    if (char_at(*cells, 0) == '{') {  // the columns of an array: {lcr}
      const std::size_t close = cells->find_first_not_of("lcr| ", 1);
      if (close != kNone && (*cells)[close] == '}') cells->remove_prefix(close + 1);
    }
    return name;
  }
  return {};
}

template <class Visit>
void for_each_field(std::string_view text, std::string_view separator, Visit visit) {
  for (;;) {
    const std::size_t at = std::min(text.find(separator), text.size());
    visit(text.substr(0, at));
    if (at == text.size()) return;
    text.remove_prefix(at + separator.size());
  }
}

Int magnitude(Int value) { return value < 0 ? -value : value; }

// The end of what joins two numbers of a range at `at`, kNone where nothing does; `*unit` is the
// word before it, with its blank.
std::size_t joint_end(std::string_view text, std::size_t at, bool named, std::string_view* unit) {
  const auto joint = [&](std::size_t from) {
    if (named) return starts_at(text, from, " and ") ? from + 5 : kNone;
    const std::size_t sign = skip(text, from, ' ');
    if (char_at(text, sign) == '-') return skip(text, sign + 1, ' ');
    if (starts_at(text, sign, "..")) {
      std::size_t end = sign;
      while (char_at(text, end) == '.') ++end;
      return skip(text, end, ' ');
    }
    if (starts_at(text, from, " to ")) return from + 4;
    return starts_at(text, from, " through ") ? from + 9 : kNone;
  };
  *unit = {};
  if (char_at(text, at) == ' ') {
    const std::size_t end = letters_end(text, at + 1);
    const bool joins =
        !named && (starts_at(text, at + 1, "to ") || starts_at(text, at + 1, "through "));
    if (end > at + 1 && !joins) {
      const std::size_t after = joint(end);
      if (after != kNone) {
        *unit = text.substr(at, end - at);
        return after;
      }
    }
  }
  return joint(at);
}

}  // namespace

bool is_enclosed(std::string_view text) {
  if (text.size() < 2 || !has("([{", text[0]) || !has(")]}", text.back())) return false;
  int depth = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    depth += has("([{", text[at]) ? 1 : has(")]}", text[at]) ? -1 : 0;
    if (depth == 0) return at == text.size() - 1;
  }
  return false;
}

Key read_bracketed(Reading& reading, std::string_view text, const Part& part) {
  if (!is_enclosed(text)) return {};
  const char open = text[0], close = text.back();
  const std::string_view inside = trim(text.substr(1, text.size() - 2));
  Members members = split_top(inside, comma_blank);
  if (members && members->size() == 1) members = split_top(inside, comma);
  if (!all_filled(members)) return {};
  if (members->size() == 1) return closing_of(open) == close ? part(inside) : Key();
  std::vector<std::string> bodies;
  for (const std::string_view member : *members) {
    const Key key = part(member);
    if (!is_member(key)) return {};
    bodies.push_back(render(*key));
  }
  if (open == '{' && close == '}') return set_key(reading, std::move(bodies));
  if (open == '{' || close == '}') return {};
  return std::string("tuple:") + open + joined(bodies, ", ") + close;
}

Key read_list(Reading& reading, std::string_view text, const Part& part) {
  const Members members = split_top(text.substr(named_list_begin(text)), list_separator);
  if (!all_filled(members) || members->size() < 2) return {};
  std::vector<std::string_view> names, values;
  for (const std::string_view member : *members) {
    std::string_view name;
    values.push_back(member.substr(assignment_end(member, &name)));
    names.push_back(name);
  }
  const auto empty = [](std::string_view name) { return name.empty(); };
  std::string_view only;
  const std::size_t named = assignment_end(text, &only);
  if (named > 0 && std::all_of(names.begin() + 1, names.end(), empty)) {
    const Key whole = part(text.substr(named));
    if (whole && starts_with(*whole, "num:")) return whole;  // "x=12,345", as "12,345" is
  }
  std::vector<std::string> bodies;
  for (const std::string_view value : values) {
    const Key key = part(value);
    if (!key || is_text(*key) || starts_with(*key, "bool:")) return {};
    bodies.push_back(render(*key));
  }
  const std::string_view last = tail_of(reading, values.back());
  for (const std::string_view value : values) {
    const std::string_view tail = tail_of(reading, value);
    if (!tail.empty() && tail != last) return {};  // "2 hours and 30 minutes" is one quantity
  }
  const auto first = std::find_if_not(names.begin(), names.end(), empty);
  if (std::any_of(first, names.end(), [&](auto name) { return !name.empty() && name != *first; })) {
    return named_key(names, bodies);
  }
  return set_key(reading, std::move(bodies));
}

Key read_plus_minus(Reading& reading, std::string_view text) {
  const std::size_t sign = text.find("\\pm");
  if (sign == kNone) return {};
  std::string_view before = text.substr(0, sign);
  if (!before.empty() && before.back() == ' ') before.remove_suffix(1);
  const std::size_t begin = skip(text, sign + 3, ' ');
  if (begin >= text.size()) return {};
  const auto center =
      before.empty() ? std::optional<Rational>(Rational{}) : read_number(reading, before);
  auto spread = read_number(reading, text.substr(begin));
  if (!center || !spread) return {};
  if (spread->top < 0) *spread = negated(*spread);
  const auto low = sum(reading, *center, negated(*spread)), high = sum(reading, *center, *spread);
  if (!low || !high) return {};
  const std::string first = body_of(*low), second = body_of(*high);
  return first == second ? "num:" + first : "set:{" + first + ", " + second + "}";
}

Key read_union(std::string_view text, const Part& part) {
  if (!has("([{", text[0]) || (text.find("\\cup") == kNone && text.find('U') == kNone)) return {};
  const Members members = split_top(text, cup);
  if (!members || members->size() < 2) return {};
  std::vector<std::string> bodies;
  for (const std::string_view member : *members) {
    const Key key = is_enclosed(member) ? part(member) : Key();
    if (!key) return {};
    const bool single = member[0] == '{' && starts_with(*key, "num:");
    if (!single && !starts_with(*key, "tuple:") && !starts_with(*key, "set:")) return {};
    bodies.push_back(single ? "{" + render(*key) + "}" : render(*key));
  }
  std::sort(bodies.begin(), bodies.end());
  return "union:" + joined(bodies, " \\cup ");
}

Key read_matrix(std::string_view text, const Part& part) {
  std::string_view inside;
  const std::string_view name = matrix_name(text, &inside);
  if (name.empty()) return {};
  std::vector<std::string> rows;
  std::size_t width = 0;
  bool fits = true;
  for_each_field(inside, "\\\\", [&](std::string_view row) {
    if (trim(row).empty() || !fits) return;
    std::vector<std::string> cells;
    for_each_field(row, "&", [&](std::string_view cell) {
      const Key key = part(trim(cell));
      fits = fits && is_member(key);
      if (fits) cells.push_back(render(*key));
    });
    if (rows.empty()) width = cells.size();
    fits = fits && cells.size() == width;
    rows.push_back(joined(cells, " & "));
  });
  if (!fits || rows.empty()) return {};
  const std::string kind(name == "vmatrix" || name == "Vmatrix" ? name : "pmatrix");
  return "matrix:\\begin{" + kind + "} " + joined(rows, " \\\\ ") + " \\end{" + kind + "}";
}

Key read_ratio(Reading& reading, std::string_view text) {
  if (text.find(':') == kNone) return {};
  std::vector<Rational> values;
  bool fits = true, first = true;
  for_each_field(text, ":", [&](std::string_view field) {
    if (!first && !field.empty() && field[0] == ' ') field.remove_prefix(1);
    const bool last = field.data() + field.size() == text.data() + text.size();
    if (!last && !field.empty() && field.back() == ' ') field.remove_suffix(1);
    first = false;
    const auto value = fits ? read_number(reading, field) : std::optional<Rational>();
    fits = fits && value;
    if (fits) values.push_back(*value);
  });
  if (!fits || values.size() > kMostFields) return {};
  Int scale = 1, divisor = 0;
  for (const Rational& value : values) {  // the least common multiple of the denominators
    if (__builtin_mul_overflow(reduced(scale, value.bottom).top, value.bottom, &scale)) {
      reading.host = true;
      return {};
    }
  }
  std::vector<Int> whole;
  for (const Rational& value : values) {
    Int scaled;
    if (__builtin_mul_overflow(value.top, scale / value.bottom, &scaled)) {
      reading.host = true;
      return {};
    }
    whole.push_back(scaled);
    Int a = magnitude(scaled), b = divisor;
    while (b != 0) {
      const Int rest = a % b;
      a = b;
      b = rest;
    }
    divisor = a;
  }
  if (divisor == 0) divisor = 1;
  std::vector<std::string> bodies;
  for (const Int value : whole) bodies.push_back(body_of({value / divisor, 1}));
  return "ratio:" + joined(bodies, ":");
}

Key read_range(Reading& reading, std::string_view text) {
  const bool named = starts_with(text, "between ");
  if (named) {
    text.remove_prefix(8);
  } else if (starts_with(text, "from ")) {
    text.remove_prefix(5);
  }
  const auto low = number_prefix(reading, text);
  if (!low) return {};
  std::string_view unit;
  const std::size_t joint = joint_end(text, low->end, named, &unit);
  if (joint == kNone) return {};
  const auto high = number_prefix(reading, text.substr(joint));
  if (!high || compare(reading, low->value, high->value) >= 0) return {};
  const std::string_view tail = text.substr(joint + high->end);
  if (!drops_out(tail) || (!unit.empty() && unit != tail)) return {};
  return "range:" + body_of(low->value) + " to " + body_of(high->value);
}

}  // namespace fastsi::vote
