// Twin of fastsi/vote/boxes.py.
#include "rules.h"
#include "text.h"

namespace fastsi::vote {
namespace {

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct Boxes {
  std::vector<std::size_t> starts;    // of contents in braces
  std::vector<std::size_t> unbraced;  // of contents without
};

Boxes find_boxes(std::string_view text) {
  Boxes found;
  for (std::size_t at = find_char(text, '\\', 0); at != kNone; at = find_char(text, '\\', at + 1)) {
    std::size_t end = at;
    if (starts_at(text, at, "\\boxed")) {
      end += 6;
    } else if (starts_at(text, at, "\\fbox")) {
      end += 5;
    } else {
      continue;
    }
    while (is_ascii_space(char_at(text, end))) ++end;
    if (char_at(text, end) == '{') {
      found.starts.push_back(end + 1);
    } else {
      found.unbraced.push_back(end);
    }
  }
  return found;
}

// Index of the brace that closes each box, kNone where it is open: one pass over the text.
std::vector<std::size_t> closing_braces(std::string_view text,
                                        const std::vector<std::size_t>& starts) {
  std::vector<std::size_t> ends(starts.size(), kNone), open;
  std::size_t next = 0;  // first box that begins at or after the brace in hand
  for (std::size_t at = starts[0] - 1; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\\') {
      ++at;
    } else if (c == '{') {
      const bool is_box = next < starts.size() && starts[next] == at + 1;
      open.push_back(is_box ? next : kNone);
      next += is_box;
    } else if (c == '}' && !open.empty()) {
      if (open.back() != kNone) ends[open.back()] = at;
      open.pop_back();
    }
  }
  return ends;
}

// What a truncated box holds, up to the end of its line or formula; empty if braces do not match.
std::string_view truncated(std::string_view text) {
  text = text.substr(0, text.find_first_of("\n$"));
  std::ptrdiff_t depth = 0;
  for (const char c : text) depth += (c == '{') - (c == '}');
  return depth == 0 ? text : std::string_view();
}

Status in_braces(std::string_view text, const std::vector<std::size_t>& starts, std::string* key) {
  const std::vector<std::size_t> ends = closing_braces(text, starts);
  std::size_t tried = 0;
  for (std::size_t i = starts.size(); i-- > 0 && tried < kMaxCandidates;) {
    if (ends[i] == kNone) continue;
    ++tried;
    const Status status = key_of_answer(text.substr(starts[i], ends[i] - starts[i]), key);
    if (status != Status::none) return status;
  }
  if (ends.back() != kNone) return Status::none;
  return key_of_answer(truncated(text.substr(starts.back())), key);
}

}  // namespace

Status boxed(std::string_view text, std::string* key) {
  const Boxes found = find_boxes(text);
  if (!found.starts.empty()) {
    const Status status = in_braces(text, found.starts, key);
    if (status != Status::none) return status;
  }
  std::size_t tried = 0;
  for (std::size_t i = found.unbraced.size(); i-- > 0 && tried < kMaxCandidates;) {
    const std::string_view rest = text.substr(found.unbraced[i]);
    std::size_t end = 0;
    while (end < rest.size() && !is_ascii_space(rest[end]) && rest[end] != '{' &&
           rest[end] != '}' && rest[end] != '$' && rest[end] != '\\') {
      ++end;
    }
    if (end == 0) continue;
    ++tried;
    const Status status = key_of_answer(rest.substr(0, end), key);
    if (status != Status::none) return status;
  }
  return Status::none;
}

}  // namespace fastsi::vote
