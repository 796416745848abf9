// Answer keys of whole responses for a CUDA kernel: a conservative subset of `answer_key` with the
// extractor "auto", its default marks of another question, and no last number. Self-contained and
// without allocation, as vote_device.h; one source serves the host's tests and the device.
//
// `device_answer_key` says key or none only where `fastsi::vote::answer_key` says the same;
// whatever is doubtful is left to the host. It decides:
//   - the last \boxed{...} or \fbox{...}, if its braces close;
//   - the last <answer>...</answer> that holds one word;
//   - the first ####, after a blank, up to its line's end;
//   - "answer is X" and "answer: X", of the last word "answer", up to the clause's end;
//   - no answer: none of these marks, no word that another rule begins with, nothing but ASCII,
//   more
//     than a short line, and no choice, yes or no as its last line.
#pragma once

#include "fastsi/vote_device.h"

namespace fastsi::vote {

enum class DeviceStatus : unsigned char { none, key, host };

namespace device {

constexpr int kNowhere = 0x7FFFFFFF;
constexpr int kMaxClause = 400;  // characters that the phrase rule reads
constexpr int kMaxBare = 64;     // characters of a line that may be an answer by itself

FASTSI_HOST_DEVICE inline bool is_wide(char c) { return static_cast<unsigned char>(c) >= 0x80; }
FASTSI_HOST_DEVICE inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
FASTSI_HOST_DEVICE inline int least(int a, int b) { return a < b ? a : b; }
FASTSI_HOST_DEVICE inline int most(int a, int b) { return a > b ? a : b; }

// Bytes [begin, end) of a response; NUL outside, as in the rules on the host.
struct Text {
  const char* data;
  int begin;
  int end;

  FASTSI_HOST_DEVICE char operator[](int at) const {
    return at >= begin && at < end ? data[at] : '\0';
  }
  template <int n>
  FASTSI_HOST_DEVICE bool starts(int at, const char (&word)[n]) const {
    if (at < begin || end - at < n - 1) return false;
    for (int i = 0; i < n - 1; ++i) {
      if (data[at + i] != word[i]) return false;
    }
    return true;
  }
  // The same for a word in lower case, in any case of the text's letters.
  template <int n>
  FASTSI_HOST_DEVICE bool starts_any_case(int at, const char (&word)[n]) const {
    if (at < begin || end - at < n - 1) return false;
    for (int i = 0; i < n - 1; ++i) {
      if (lower(data[at + i]) != word[i]) return false;
    }
    return true;
  }
};

// --- marks, position by position ----------------------------------------------------------------

template <int n>
FASTSI_HOST_DEVICE inline bool precedes(const Text& text, int at, const char (&word)[n]) {
  return text.starts(at - (n - 1), word);
}

// Begin of the mark of another question whose word is at [word, end); kNowhere where it is none,
// and -1 where bytes of other characters may be a blank or a colon.
FASTSI_HOST_DEVICE inline int run_on(const Text& text, int word, int end) {
  int begin = word;
  while (text[begin - 1] == '#' || text[begin - 1] == '*') --begin;
  const bool maybe = is_wide(text[begin - 1]);
  if (!maybe && !is_space(text[begin - 1])) return kNowhere;
  if (precedes(text, begin, "for ") || precedes(text, begin, "to ") ||
      precedes(text, begin, "of ") || precedes(text, begin, "in ") ||
      precedes(text, begin, "the ")) {
    return kNowhere;
  }
  int digits = end + (text[end] == ' ');
  digits += text[digits] == '#';
  const int first = digits;
  while (digits < first + 4 && is_digit(text[digits])) ++digits;
  if (digits > first) end = digits;
  while (text[end] == '*') ++end;
  if (is_wide(text[end])) return -1;
  if (text[end] != ':') return kNowhere;
  return maybe ? -1 : begin;
}

FASTSI_HOST_DEVICE inline int run_on_at(const Text& text, int at) {
  if (text[at] == 'P') return text.starts(at, "Problem") ? run_on(text, at, at + 7) : kNowhere;
  if (text[at] != 'Q') return kNowhere;
  return run_on(text, at, text.starts(at, "Question") ? at + 8 : at + 1);
}

// Where the marks of a response are. Every field is a maximum or minimum over positions, so that
// lanes can look at positions of their own.
struct Marks {
  int box = -1;         // last \boxed or \fbox
  int open_tag = -1;    // last <answer>
  int close_tag = -1;   // last </answer>
  int hash = kNowhere;  // first ####
  int answer = -1;      // last "answer"
  int doubt = 0;        // 1: without these marks, another rule may still find an answer
};

// Whether another rule than those of `Marks` may find something at a position.
FASTSI_HOST_DEVICE inline bool is_doubtful(const Text& text, int at) {
  const char c = text[at];
  if (is_wide(c)) return true;
  if (c == ' ') {
    return text.starts_any_case(at, " is correct") || text.starts_any_case(at, " is right");
  }
  switch (lower(c)) {
    case 'a':
      return text.starts_any_case(at, "antwort");
    case 'c':
      return text.starts_any_case(at, "choice");
    case 'i':
      return text.starts_any_case(at, "idahun");
    case 'j':
      return text.starts_any_case(at, "jawaban") || text.starts_any_case(at, "jibu");
    case 'o':
      return text.starts_any_case(at, "option");
    case 'r':
      return text.starts_any_case(at, "respuesta") || text.starts_any_case(at, "resposta") ||
             text.starts_any_case(at, "risposta");
    default:
      return false;
  }
}

FASTSI_HOST_DEVICE inline void note_marks(const Text& text, int at, Marks* marks) {
  if (is_doubtful(text, at)) marks->doubt = 1;
  switch (text[at]) {
    case '\\':
      if (text.starts(at, "\\boxed") || text.starts(at, "\\fbox"))
        marks->box = most(marks->box, at);
      return;
    case '<':
      if (text.starts_any_case(at, "<answer>")) marks->open_tag = most(marks->open_tag, at);
      if (text.starts_any_case(at, "</answer>")) marks->close_tag = most(marks->close_tag, at);
      return;
    case '#':
      if (text.starts(at, "####")) marks->hash = least(marks->hash, at);
      return;
    case 'a':
    case 'A':
      if (text.starts_any_case(at, "answer")) marks->answer = most(marks->answer, at);
      return;
    default:
      return;
  }
}

// --- spans --------------------------------------------------------------------------------------

// Each gives false where the host must look.

FASTSI_HOST_DEVICE inline bool boxed(const Text& text, int at, Text* span) {
  at += text[at + 1] == 'b' ? 6 : 5;
  while (is_space(text[at])) ++at;
  if (text[at] != '{') return false;
  span->begin = ++at;
  for (int depth = 0; at < text.end && at - span->begin <= kMaxSpan; ++at) {
    const char c = text[at];
    if (c == '\\') {
      ++at;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && depth-- == 0) {
      span->end = at;
      return true;
    }
  }
  return false;
}

// One word: it announces nothing by itself.
FASTSI_HOST_DEVICE inline bool tag(const Text& text, int open, Text* span) {
  int at = open + 8;
  while (is_blank(text[at])) ++at;
  span->begin = at;
  for (; at < text.end && !is_space(text[at]) && text[at] != '<'; ++at) {
    const char c = lower(text[at]);
    if (c == ':' || c == '=' || c == 'w' || at - span->begin > kMaxSpan) return false;
  }
  span->end = at;
  while (is_blank(text[at])) ++at;
  return text.starts_any_case(at, "</answer>");
}

FASTSI_HOST_DEVICE inline bool hash(const Text& text, int at, Text* span) {
  if (at != text.begin && !is_space(text[at - 1])) return false;
  while (text[at] == '#' || text[at] == ' ' || text[at] == '\t') ++at;
  span->begin = at;
  for (; at < text.end && text[at] != '\n'; ++at) {
    if (text[at] == '<' || text.starts(at, "##") || at - span->begin > kMaxSpan) return false;
  }
  span->end = at;
  return true;
}

// Position after "answer is" or "answer:", -1 where the word at `word` announces in another way.
FASTSI_HOST_DEVICE inline int after_link(const Text& text, int word) {
  int at = word + 6;
  if (text.starts_any_case(at, " is")) return is_letter(text[at + 3]) ? -1 : at + 3;
  if (text[at] == '*') at += text[at + 1] == '*' ? 2 : 1;
  return text[at] == ':' && text[at + 1] != '>' ? at + 1 : -1;
}

// Position after the formula that the dollar sign at `at` opens, or after the sign where it opens
// none; -1 beyond ASCII.
FASTSI_HOST_DEVICE inline int after_formula(const Text& window, int at) {
  int close = at + 1;
  while (close < window.end && window[close] != '$' && window[close] != '\n') {
    if (is_wide(window[close])) return -1;
    ++close;
  }
  if (close >= window.end || window[close] == '\n' || close == at + 1) return at + 1;
  if (window[at + 1] == ' ' || window[close - 1] == ' ') return at + 1;
  return is_digit(window[close + 1]) ? at + 1 : close + 1;
}

template <int n>
FASTSI_HOST_DEVICE inline bool is_last_word(const Text& window, int end, const char (&word)[n]) {
  const int at = end - (n - 1);
  if (!window.starts(at, word)) return false;
  return at == window.begin || window[at - 1] == '(' || is_space(window[at - 1]);
}

FASTSI_HOST_DEVICE inline bool is_abbreviated(const Text& window, int point) {
  return is_letter(window[point - 1]) &&
         (is_last_word(window, point, "Mr") || is_last_word(window, point, "Mrs") ||
          is_last_word(window, point, "Ms") || is_last_word(window, point, "Dr") ||
          is_last_word(window, point, "St") || is_last_word(window, point, "Mt") ||
          is_last_word(window, point, "Prof") || is_last_word(window, point, "vs") ||
          is_last_word(window, point, "approx") || is_last_word(window, point, "ca") ||
          is_last_word(window, point, "e.g") || is_last_word(window, point, "i.e") ||
          is_last_word(window, point, "Rs"));
}

// Whether a clause ends at `at`: 1 or 0; -1 where the host must look.
FASTSI_HOST_DEVICE inline int ends_clause(const Text& window, int at) {
  const char c = window[at];
  if (is_wide(c)) return -1;
  if (c == '\n') return 1;
  if (c == '#') return window[at + 1] == '#';
  if (c == '<') return window[at + 1] == '|' || window[at + 1] == '/' ? 1 : -1;
  if (c != '.' && c != '!' && c != '?') return 0;
  int next = at + 1;
  while (window[next] == '"' || window[next] == '\'' || window[next] == ')' ||
         window[next] == '*' || window[next] == ']') {
    ++next;
  }
  if (is_wide(window[next])) return -1;
  if (next >= window.end || is_space(window[next]) || window[next] == '<' ||
      window.starts(next, "##")) {
    return c != '.' || !is_abbreviated(window, at);
  }
  const char before = window[at - 1], after = window[at + 1], second = window[at + 2];
  return c == '.' && (is_digit(before) || before == ')') && after >= 'A' && after <= 'Z' &&
         second >= 'a' && second <= 'z';
}

FASTSI_HOST_DEVICE inline bool is_outer(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '"' || c == '\'' || c == '*' ||
         c == '_' || c == ',' || c == ';' || c == ':' || c == '?';
}

// Without blanks, quotes and closing punctuation at both ends.
FASTSI_HOST_DEVICE inline void strip_ends(Text* span) {
  for (int size = -1; size != span->end - span->begin;) {
    size = span->end - span->begin;
    while (is_outer((*span)[span->begin])) ++span->begin;
    while (is_outer((*span)[span->end - 1])) --span->end;
    if ((*span)[span->end - 1] == '.' && (*span)[span->end - 2] != '.') --span->end;
  }
}

FASTSI_HOST_DEVICE inline bool announced(const Text& text, int word, Text* span) {
  int at = after_link(text, word);
  if (at < 0) return false;
  const int limit = text.end - at > kMaxClause ? at + kMaxClause : text.end;
  Text window{text.data, at, limit};
  while (is_space(window[at]) || window[at] == '*' || window[at] == '_' || window[at] == '`' ||
         window[at] == ':' || window[at] == '=') {
    ++at;
  }
  window.begin = at;
  if (window.starts(at, "\\[") || window.starts(at, "\\(") || window.starts(at, "$$")) return false;
  while (at < limit) {
    if (window[at] == '$') {
      at = after_formula(window, at);
      if (at < 0) return false;
      continue;
    }
    const int ends = ends_clause(window, at);
    if (ends < 0) return false;
    if (ends > 0) break;
    ++at;
  }
  if (at >= limit && limit < text.end) return false;  // longer than the rule reads
  *span = Text{text.data, window.begin, at};
  strip_ends(span);
  return true;
}

// Whether a response without marks and without doubt has no answer for certain.
FASTSI_HOST_DEVICE inline bool is_silent(Text text) {
  while (text.end > text.begin && is_space(text[text.end - 1])) --text.end;
  if (text.end == text.begin) return true;
  if (text.end - text.begin <= kMaxBare) return false;
  int line = text.end;
  while (line > text.begin && text[line - 1] != '\n') --line;
  while (text[line] == '*' || text[line] == '_' || text[line] == ' ') ++line;
  return text[line] != '(' && !text.starts_any_case(line, "yes") &&
         !text.starts_any_case(line, "no") && !text.starts_any_case(line, "true") &&
         !text.starts_any_case(line, "false");
}

FASTSI_HOST_DEVICE inline DeviceStatus read_marks(const Text& text, const Marks& marks,
                                                  DeviceKey* key) {
  Text span{text.data, 0, 0};
  bool found = false;
  if (marks.box >= 0) {
    found = boxed(text, marks.box, &span);
  } else if (marks.open_tag >= 0 || marks.close_tag >= 0) {
    found = marks.open_tag >= 0 && tag(text, marks.open_tag, &span);
  } else if (marks.hash != kNowhere) {
    found = hash(text, marks.hash, &span);
  } else if (marks.answer >= 0) {
    found = announced(text, marks.answer, &span);
  } else if (marks.doubt == 0 && is_silent(text)) {
    return DeviceStatus::none;
  }
  if (!found) return DeviceStatus::host;
  if (span.end - span.begin > kMaxSpan) return DeviceStatus::host;
  for (int at = span.begin; at < span.end; ++at) {
    if (is_wide(text[at])) return DeviceStatus::host;  // broken UTF-8 is repaired there
  }
  const bool has_key = device_key(text.data + span.begin, span.end - span.begin, key);
  return has_key ? DeviceStatus::key : DeviceStatus::host;
}

// One lane that looks at every position; a kernel passes its warp's.
struct OneLane {
  FASTSI_HOST_DEVICE int index() const { return 0; }
  FASTSI_HOST_DEVICE int count() const { return 1; }
  FASTSI_HOST_DEVICE int max(int value) const { return value; }
  FASTSI_HOST_DEVICE int min(int value) const { return value; }
};

}  // namespace device

// Status and key of the response of `size` UTF-8 bytes at `data`; all lanes get the status, lane 0
// the key.
template <class Lanes>
FASTSI_HOST_DEVICE inline DeviceStatus device_answer_key(const char* data, int size,
                                                         const Lanes& lanes, DeviceKey* key) {
  device::Text text{data, 0, size};
  int begin = 0;
  for (int at = lanes.index(); at < size; at += lanes.count()) {
    if (text[at] == '<' && text.starts(at, "</think>")) begin = at + 8;
  }
  text.begin = lanes.max(begin);
  while (device::is_space(text[text.begin])) ++text.begin;
  int end = size;
  for (int at = text.begin + lanes.index(); at < size; at += lanes.count()) {
    end = device::least(end, device::run_on_at(text, at));
  }
  end = lanes.min(end);
  if (end < 0) return DeviceStatus::host;
  text.end = end;
  device::Marks marks;
  for (int at = text.begin + lanes.index(); at < end; at += lanes.count()) {
    device::note_marks(text, at, &marks);
  }
  marks.box = lanes.max(marks.box);
  marks.open_tag = lanes.max(marks.open_tag);
  marks.close_tag = lanes.max(marks.close_tag);
  marks.hash = lanes.min(marks.hash);
  marks.answer = lanes.max(marks.answer);
  marks.doubt = lanes.max(marks.doubt);
  int status = 0;
  if (lanes.index() == 0) status = static_cast<int>(device::read_marks(text, marks, key));
  return static_cast<DeviceStatus>(lanes.max(status));
}

}  // namespace fastsi::vote
