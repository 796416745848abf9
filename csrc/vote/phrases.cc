// Twin of fastsi/vote/phrases.py.
#include <algorithm>
#include <utility>

#include "rules.h"
#include "text.h"

namespace fastsi::vote {
namespace {

constexpr std::size_t kMaxClause = 400;  // characters
constexpr std::size_t kMaxProse = 10;    // words
constexpr int kMaxAbout = 80;            // characters between "answer" and its verb
constexpr int kMaxBlanks = 8;
constexpr std::string_view kWideColon = "\xEF\xBC\x9A";

// Position after one of `words` (lower case) at `at` that no further letter follows, or kNone.
template <std::size_t n>
std::size_t after_word(std::string_view text, std::size_t at, const std::string_view (&words)[n]) {
  for (const std::string_view word : words) {
    if (starts_at_any_case(text, at, word) && !is_alpha(char_at(text, at + word.size()))) {
      return at + word.size();
    }
  }
  return kNone;
}

std::size_t after_verb(std::string_view text, std::size_t at) {
  static constexpr std::string_view kVerbs[] = {
      "is",        "are",          "was",          "would be",       "will be",
      "should be", "must be",      "has to be",    "equals",         "becomes",
      "comes to",  "comes out to", "works out to", "turns out to be"};
  switch (lower(char_at(text, at))) {
    case 'i':
    case 'a':
    case 'w':
    case 's':
    case 'm':
    case 'h':
    case 'e':
    case 'b':
    case 'c':
    case 't':
      return after_word(text, at, kVerbs);
    default:
      return kNone;
  }
}

// Blanks with a bold or italic sign among them.
std::size_t skip_glue(std::string_view text, std::size_t at) {
  at = skip_blanks(text, at, kMaxBlanks);
  const char sign = char_at(text, at);
  if (sign == '*' || sign == '_') at += char_at(text, at + 1) == sign ? 2 : 1;
  return skip_blanks(text, at, kMaxBlanks);
}

std::size_t after_option_word(std::string_view text, std::size_t at) {
  static constexpr std::string_view kWords[] = {"option", "choice"};
  const std::size_t word = skip_blanks(text, at, kMaxBlanks);
  return word == at ? kNone : after_word(text, word, kWords);
}

// Position after an adverb between verb and answer, `at` where there is none.
std::size_t skip_adverb(std::string_view text, std::size_t at) {
  static constexpr std::string_view kWords[] = {
      "therefore", "thus",     "hence",   "then",     "so",     "still",      "simply", "just",
      "indeed",    "actually", "clearly", "probably", "likely", "definitely", "now",    "also"};
  const std::size_t comma = skip_blanks(text, at, kMaxBlanks);
  const std::size_t begin = char_at(text, comma) == ',' ? comma + 1 : at;
  const std::size_t word = skip_blanks(text, begin, kMaxBlanks);
  const std::size_t end = word == begin ? kNone : after_word(text, word, kWords);
  return end == kNone ? at : end;
}

// Position after the verb, sign or arrow that ends a mark and begins at `at` > 0. After the word
// "answer" more links are known, and "option" may follow.
std::size_t after_link(std::string_view text, std::size_t at, bool of_answer) {
  at = skip_glue(text, at);
  const char c = char_at(text, at);
  std::size_t sign = 0;
  if (c == ':' || (c == '=' && of_answer)) sign = 1;
  if (starts_at(text, at, kWideColon)) sign = kWideColon.size();
  if (sign != 0) return at + sign + (of_answer && char_at(text, at + sign) == '>');
  if (of_answer && starts_at(text, at, "->")) return at + 2;
  if (of_answer && starts_at(text, at, u8"\u2192")) return at + 3;
  if (!is_alpha(c) || is_alpha(text[at - 1])) return kNone;
  const std::size_t verb = after_verb(text, at);
  if (verb == kNone || !of_answer) return verb;
  const std::size_t adverb = skip_adverb(text, verb);
  const std::size_t option = after_option_word(text, adverb);
  return option == kNone ? adverb : option;
}

// Position after the word, comma or bracket that leads over to what the answer is about, or kNone.
std::size_t about_what(std::string_view text, std::size_t at) {
  static constexpr std::string_view kWords[] = {
      "to", "of", "for", "in", "here", "then", "choice", "option", "therefore", "that", "we", "i"};
  if (char_at(text, at) == ',') return at + 1;
  const std::size_t word = skip_blanks(text, at, kMaxBlanks);
  if (char_at(text, word) == '(') return word + 1;
  const std::size_t end = word == at ? kNone : after_word(text, word, kWords);
  return end == kNone || is_word(char_at(text, end)) ? kNone : end;
}

// End of the mark whose word "answer" begins at `word`, or kNone.
std::size_t after_answer(std::string_view text, std::size_t word) {
  const std::size_t bare_end = word + 6;
  const std::size_t end = bare_end + (lower(char_at(text, bare_end)) == 's');
  std::size_t at = about_what(text, end);
  for (int step = 0; at != kNone && step <= kMaxAbout; ++step) {
    const std::size_t found = after_link(text, at, true);
    if (found != kNone) return found;
    const char c = char_at(text, at);
    const bool stops = at >= text.size() || c == '\n' || c == ':' || c == '=' ||
                       (c == '.' && !is_digit(char_at(text, at + 1)));
    if (stops) break;
    at += char_bytes(text, at);
  }
  const std::size_t found = after_link(text, end, true);
  if (found != kNone) return found;
  std::size_t line = skip_blanks(text, bare_end, kMaxBlanks);  // a heading
  for (int stars = 0; stars < 2 && char_at(text, line) == '*'; ++stars) ++line;
  line = skip_blanks(text, line, kMaxBlanks);
  return char_at(text, line) == '\n' ? line : kNone;
}

// Positions of the word "answer". Few words hold a w, so that is what is looked for.
void answer_words(std::string_view text, LastMarks* words) {
  std::size_t small = find_char(text, 'w', 0), capital = find_char(text, 'W', 0);
  while (small != kNone || capital != kNone) {
    std::size_t& next = small < capital ? small : capital;  // kNone is the greatest
    if (next >= 3 && starts_at_any_case(text, next - 3, "answer")) words->add(next - 3);
    next = find_char(text, text[next], next + 1);
  }
}

void option_marks(std::string_view text, LastMarks* ends) {
  static constexpr std::string_view kPraise[] = {"correct", "right", "best"};
  for (std::size_t at = 1; at + 1 < text.size(); ++at) {
    if (lower(text[at]) != 't' || blank_at(text, at + 1) == 0) continue;
    const char before = lower(text[at - 1]);
    if (before != 'c' && before != 'h' && before != 's') continue;
    for (const std::string_view praise : kPraise) {
      if (at + 1 < praise.size() || !starts_at_any_case(text, at + 1 - praise.size(), praise)) {
        continue;
      }
      static constexpr std::string_view kWords[] = {"option", "choice"};
      const std::size_t noun = skip_blanks(text, at + 1, kMaxBlanks);
      for (const std::string_view word : kWords) {
        if (!starts_at_any_case(text, noun, word)) continue;
        const std::size_t end = after_link(text, noun + word.size(), false);
        if (end != kNone) ends->add(end);
      }
    }
  }
}

// --- clauses ------------------------------------------------------------------------------------

// Length in bytes of the first `kMaxClause` characters.
std::size_t window_bytes(std::string_view text) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < kMaxClause && at < text.size(); ++i) at += char_bytes(text, at);
  return at;
}

// Bytes of what ends a clause at `at`, 0 if nothing does.
std::size_t clause_end(std::string_view text, std::size_t at) {
  const char c = text[at];
  switch (c) {
    case '\n':
      return 1;
    case '.':
    case '!':
    case '?': {
      std::size_t next = at + 1;
      while (next < text.size() && std::string_view("\"')*]").find(text[next]) != kNone) ++next;
      if (next >= text.size() || space_at(text, next) != 0 || text[next] == '<' ||
          starts_at(text, next, "##")) {
        return 1;
      }
      const char before = at > 0 ? text[at - 1] : '\0';
      const char after = char_at(text, at + 1), second = char_at(text, at + 2);
      return c == '.' && (is_digit(before) || before == ')') && is_alpha(after) &&
             lower(after) != after && is_alpha(second) && lower(second) == second;
    }
    case '<':
      return starts_at(text, at + 1, "|") || starts_at(text, at + 1, "\xEF\xBD\x9C") ||
             starts_at(text, at + 1, "/") || starts_at(text, at + 1, "eos>") ||
             starts_at(text, at + 1, "end");
    case '#':
      return char_at(text, at + 1) == '#' ? 2 : 0;
    case '\xE3':
      return starts_at(text, at, "\xE3\x80\x82") ? 3 : 0;
    case '\xEF':
      return starts_at(text, at, "\xEF\xBC\x81") || starts_at(text, at, "\xEF\xBC\x9F") ? 3 : 0;
    default:
      return 0;
  }
}

bool ends_with_abbreviation(std::string_view text) {
  static constexpr std::string_view kWords[] = {"Mr", "Mrs",    "Ms", "Dr",  "St",  "Mt", "Prof",
                                                "vs", "approx", "ca", "e.g", "i.e", "Rs"};
  for (const std::string_view word : kWords) {
    if (text.size() < word.size() || text.substr(text.size() - word.size()) != word) continue;
    const std::size_t begin = text.size() - word.size();
    if (begin == 0 || text[begin - 1] == '(' || space_before(text, begin)) return true;
  }
  return false;
}

// Position after the formula that the dollar sign at `at` opens, or kNone. As in Markdown, a dollar
// sign before a blank opens nothing and one before a digit closes nothing.
std::size_t after_formula(std::string_view text, std::size_t at) {
  const std::size_t close = text.find_first_of("$\n", at + 1);
  if (close == kNone || text[close] == '\n' || close == at + 1) return kNone;
  if (text[at + 1] == ' ' || text[close - 1] == ' ' || is_digit(char_at(text, close + 1))) {
    return kNone;
  }
  return close + 1;
}

// Without blanks, quotes and closing punctuation at both ends; twin of clean.strip_ends.
std::string_view strip_ends(std::string_view text) {
  static constexpr std::string_view kOuter = " \t\n\r\"'*_,;:?";
  for (;;) {
    const std::size_t size = text.size();
    const std::size_t first = text.find_first_not_of(kOuter);
    if (first == kNone) return {};
    text = text.substr(first, text.find_last_not_of(kOuter) + 1 - first);
    if (text.back() == '.' && (text.size() < 2 || text[text.size() - 2] != '.')) {
      text.remove_suffix(1);
    }
    if (text.size() == size) return text;
  }
}

// The inside of the displayed formula that the text begins with.
bool displayed(std::string_view text, std::string_view* inside) {
  static constexpr std::string_view kSigns[][2] = {{"\\[", "\\]"}, {"$$", "$$"}, {"\\(", "\\)"}};
  for (const auto& [open, close] : kSigns) {
    if (!starts_at(text, 0, open)) continue;
    const std::size_t end = find_word(text, close, 2);
    if (end == kNone) continue;
    *inside = text.substr(2, end - 2);
    return true;
  }
  return false;
}

std::size_t lead_at(std::string_view text, std::size_t at) {
  const char c = char_at(text, at);
  if (c == '*' || c == '_' || c == '`' || c == ':' || c == '=') return 1;
  return starts_at(text, at, kWideColon) ? kWideColon.size() : space_at(text, at);
}

struct Clause {
  std::string_view text;
  bool same_line;  // begins on the mark's own line
};

Clause clause_at(std::string_view text, std::size_t start) {
  const std::string_view rest = text.substr(start);
  const std::size_t bytes = window_bytes(rest);
  std::string_view window = rest.substr(0, bytes);
  Clause found{{}, true};
  std::size_t lead = 0;
  while (const std::size_t step = lead_at(window, lead)) {
    if (window[lead] == '\n') found.same_line = false;
    lead += step;
  }
  window = window.substr(lead);
  if (displayed(window, &found.text)) return {found.text, true};
  for (std::size_t at = 0; at < window.size();) {
    if (window[at] == '$') {
      const std::size_t end = after_formula(window, at);
      at = end == kNone ? at + 1 : end;
      continue;
    }
    const std::size_t end = clause_end(window, at);
    if (end != 0 && !(window[at] == '.' && ends_with_abbreviation(window.substr(0, at)))) {
      found.text = strip_ends(window.substr(0, at));
      return found;
    }
    at += end == 0 ? 1 : end;
  }
  // A clause longer than the window is prose, not an answer.
  if (bytes == rest.size()) found.text = strip_ends(window);
  return found;
}

// A choice letter of another alphabet, or the ASCII answer that words of another script follow.
Status foreign_key(std::string_view clause, std::string* key) {
  if (const char letter = foreign_letter(clause)) {
    key->assign("choice:").push_back(letter);
    return Status::key;
  }
  std::size_t script = 0;
  while (script < clause.size() && static_cast<signed char>(clause[script]) >= 0) ++script;
  const std::string_view rest = clause.substr(script);
  if (rest.empty() || rest.find_first_of("0123456789") != kNone) return Status::none;
  const auto first = static_cast<unsigned char>(rest[0]),
             second = static_cast<unsigned char>(char_at(rest, 1));
  const bool letters = (first >= 0xD0 && first < 0xE2) ||    // U+0400 to U+1FFF
                       (first == 0xE2 && second >= 0xBA) ||  // U+2E80 to U+2FFF
                       (first > 0xE2 && first < 0xEE);       // U+3000 to U+DFFF
  if (!letters) return Status::none;
  const Status status = key_of_answer(clause.substr(0, script), key);
  return status == Status::key && is_text(*key) ? Status::none : status;
}

// Whether a clause is words alone and begins with a small letter.
bool is_lower_prose(std::string_view clause) {
  return clause[0] >= 'a' && clause[0] <= 'z' && clause.find_first_of("0123456789\\=+^/") == kNone;
}

// Key of the first announcement, from the last mark back, that says something. `end_of` gives a
// mark's end, kNone where it turns out to be none. Prose that begins with a small letter gives way
// to the number, choice or the like of another mark.
template <class EndOf>
Status first_said(std::string_view text, const LastMarks& marks, EndOf end_of, bool foreign,
                  std::string* key) {
  std::string prose;
  for (std::size_t i = 0; i < marks.size(); ++i) {
    const std::size_t end = end_of(marks.from_last(i));
    if (end == kNone) continue;
    const auto [clause, same_line] = clause_at(text, end);
    if (clause.empty() || denies(clause)) continue;
    Status status = foreign ? foreign_key(clause, key) : Status::none;
    if (status == Status::none) status = key_of_answer(clause, key);
    if (status == Status::none) continue;
    if (status == Status::host || !is_text(*key)) return status;
    const auto blanks = static_cast<std::size_t>(std::count(clause.begin(), clause.end(), ' '));
    if (!prose.empty() || !same_line || blanks >= kMaxProse) continue;
    prose = *key;
    if (!is_lower_prose(clause)) break;
  }
  if (prose.empty()) return Status::none;
  *key = std::move(prose);
  return Status::key;
}

}  // namespace

Status announced(std::string_view text, std::string* key) {
  const auto itself = [](std::size_t end) { return end; };
  LastMarks words;
  answer_words(text, &words);
  const auto after = [&](std::size_t word) { return after_answer(text, word); };
  Status status = first_said(text, words, after, false, key);
  if (status == Status::host || (status == Status::key && !is_text(*key))) return status;
  LastMarks options;
  option_marks(text, &options);
  std::string option;  // "Answer: The correct option is B."
  const Status other = first_said(text, options, itself, false, &option);
  if (other == Status::host) return other;
  if (other == Status::key && (status == Status::none || !is_text(option))) {
    *key = std::move(option);
    return other;
  }
  if (status == Status::key) return status;
  status = reversed_announced(text, key);
  if (status != Status::none) return status;
  LastMarks foreign;
  foreign_marks(text, &foreign);
  return first_said(text, foreign, itself, true, key);
}

}  // namespace fastsi::vote
