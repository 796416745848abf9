// Twin of fastsi/vote/marks.py; tests/vote/test_extract_twin.py tries every word of it on both.
#include <bitset>
#include <cstdint>

#include "rules.h"
#include "text.h"

namespace fastsi::vote {
namespace {

constexpr int kMaxBlanks = 8;

constexpr std::string_view kDenials[] = {"not",
                                         "unknown",
                                         "unclear",
                                         "unsure",
                                         "undetermined",
                                         "uncertain",
                                         "n/a",
                                         "none given",
                                         "let",
                                         "lets",
                                         "first",
                                         "we",
                                         "i think",
                                         "i do not",
                                         "i don't",
                                         u8"i don\u2019t",
                                         "i am not",
                                         "i'm not",
                                         u8"i\u2019m not",
                                         "to find",
                                         "to solve",
                                         "to get",
                                         "to be",
                                         "step",
                                         "found",
                                         "obtained",
                                         "given by",
                                         "computed",
                                         "calculated",
                                         "determined",
                                         "derived",
                                         "based on",
                                         "as follows",
                                         "below",
                                         "above",
                                         "cannot",
                                         "impossible",
                                         "of the form",
                                         "in the form",
                                         "in terms",
                                         "yet",
                                         "either not",
                                         "an integer",
                                         "a whole number",
                                         "a positive integer",
                                         "a prime number"};
constexpr std::string_view kRemarks[] = {
    "correct",  "incorrect", "wrong", "clear", "obvious", "simple", "reasonable", "consistent",
    "verified", "confirmed", "here",  "there", "this",    "that",   "it",         "the following"};

// An ASCII first letter is in lower case here and matches either; others are listed in both.
constexpr std::string_view kWithColon[] = {
    "antwort",
    u8"r\u00e9ponse",
    "respuesta",
    "risposta",
    "resposta",
    u8"\u041e\u0442\u0432\u0435\u0442",
    u8"\u043e\u0442\u0432\u0435\u0442",
    "jawaban",
    "jibu",
    u8"\u1eccd\u00e1h\u00f9n",
    u8"\u1ecdd\u00e1h\u00f9n",
    u8"\u00ccd\u00e1h\u00f9n",
    u8"\u00ecd\u00e1h\u00f9n",
    u8"id\u00e1h\u00f9n",
    "idahun",
    u8"\u00c0d\u00e1h\u00f9n",
    u8"\u00e0d\u00e1h\u00f9n",
    u8"\u00c0m\u1ecd\u0300n\u00e0",
    u8"\u00e0m\u1ecd\u0300n\u00e0",
    u8"\u00c0n\u00fag\u1ecd",
    u8"\u00e0n\u00fag\u1ecd",
    u8"\u00c0\u1e63\u00e0y\u00e0n",
    u8"\u00e0\u1e63\u00e0y\u00e0n",
    u8"\u0989\u09a4\u09cd\u09a4\u09b0",
    u8"\u0989\u09a4\u09cd\u09a4\u09b0\u0983",
    u8"\u0909\u0924\u094d\u0924\u0930",
    u8"\u0c38\u0c2e\u0c3e\u0c27\u0c3e\u0c28\u0c02",
    u8"\u0e04\u0e33\u0e15\u0e2d\u0e1a",
    u8"\ub2f5\ubcc0",
    u8"\uc815\ub2f5",
    u8"\ub2f5",
    u8"\u7b54\u6848",
    u8"\u7b54",
    u8"\u7b54\u590d",
    u8"\u7b54\u66f0",
    u8"\u7b54\u3048",
    u8"\u56de\u7b54",
    u8"\u89e3\u7b54",
    u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629",
    u8"\u0627\u0644\u062c\u0648\u0627\u0628",
    u8"\u0625\u062c\u0627\u0628\u0629",
    u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0646\u0647\u0627\u0626\u064a\u0629",
    u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0635\u062d\u064a\u062d\u0629",
    u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0627\u0644\u0635\u062d\u064a\u062d\u0629 "
    u8"\u0647\u064a",
    u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629 \u0647\u064a",
    u8"\u0627\u0644\u062c\u0648\u0627\u0628 \u0627\u0644\u0646\u0647\u0627\u0626\u064a"};
constexpr std::string_view kWithoutColon[] = {u8"\u7b54\u6848\u662f",  u8"\u7b54\u6848\u4e3a",
                                              u8"\u7b54\u6848\u70ba",  u8"\u7b54\u3048\u306f",
                                              u8"\ub2f5\uc740",        "respuesta es",
                                              "respuesta final es",    "respuesta correcta es",
                                              u8"r\u00e9ponse est",    u8"r\u00e9ponse finale est",
                                              u8"risposta \u00e8",     u8"risposta finale \u00e8",
                                              u8"resposta \u00e9",     u8"resposta final \u00e9",
                                              "antwort ist",           "antwort lautet",
                                              u8"antwort betr\u00e4gt"};

struct Letter {
  std::string_view foreign;
  char ascii;
};
constexpr Letter kLetters[] = {{u8"\u0623", 'a'}, {u8"\u0628", 'b'}, {u8"\u062c", 'c'},
                               {u8"\u062f", 'd'}, {u8"\u0985", 'a'}, {u8"\u09ac", 'b'},
                               {u8"\u09a1", 'c'}, {u8"\u09a2", 'd'}};

// The three bytes that a mark begins with, so that most positions cost one look.
class Beginnings {
 public:
  Beginnings() {
    for (const std::string_view word : kWithColon) seen_[index(word.data())] = true;
    for (const std::string_view word : kWithoutColon) seen_[index(word.data())] = true;
  }
  // Whether a mark may begin with these bytes; a wrong yes is rare.
  bool has(const char* bytes) const { return seen_[index(bytes)]; }

 private:
  static std::size_t index(const char* bytes) {
    const auto byte = [&](int i) {
      return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i]));
    };
    const auto first = static_cast<unsigned char>(lower(bytes[0]));
    return (first * 0x3DU + byte(1) * 0x11FU + byte(2) * 0x7U) & 0xFFFFU;
  }

  std::bitset<65536> seen_;
};

// Position after `word` at `at`, kNone where it is not there.
std::size_t after(std::string_view text, std::size_t at, std::string_view word) {
  const bool found = lower(text[at]) == word[0] && starts_at(text, at + 1, word.substr(1));
  return found ? at + word.size() : kNone;
}

std::size_t after_mark(std::string_view text, std::size_t at) {
  for (const std::string_view word : kWithColon) {
    std::size_t end = after(text, at, word);
    if (end == kNone) continue;
    end = skip_blanks(text, end, kMaxBlanks);
    for (int stars = 0; stars < 2 && char_at(text, end) == '*'; ++stars) ++end;
    end = skip_blanks(text, end, kMaxBlanks);
    if (char_at(text, end) == ':') return end + 1;
    if (starts_at(text, end, u8"\uff1a")) return end + 3;
  }
  for (const std::string_view word : kWithoutColon) {
    const std::size_t end = after(text, at, word);
    if (end != kNone) return end;
  }
  return kNone;
}

}  // namespace

bool denies(std::string_view clause) {
  if (starts_at(clause, 0, "...")) return true;
  if (!is_alpha(clause[0])) return false;
  for (const std::string_view word : kRemarks) {
    if (clause.size() == word.size() && starts_at_any_case(clause, 0, word)) return true;
  }
  for (const std::string_view word : kDenials) {
    if (starts_at_any_case(clause, 0, word) && !is_word(char_at(clause, word.size()))) return true;
  }
  return false;
}

void foreign_marks(std::string_view text, LastMarks* ends) {
  static const Beginnings beginnings;
  for (std::size_t at = 0; at + 2 < text.size(); ++at) {
    if (!beginnings.has(text.data() + at)) continue;
    const std::size_t end = after_mark(text, at);
    if (end == kNone) continue;
    ends->add(end);
    at = end - 1;  // marks do not overlap
  }
}

char foreign_letter(std::string_view clause) {
  const std::size_t first = clause.find_first_not_of("() ");
  if (first == kNone) return 0;
  clause = clause.substr(first, clause.find_last_not_of("() ") + 1 - first);
  for (const Letter& letter : kLetters) {
    if (clause == letter.foreign) return letter.ascii;
  }
  return 0;
}

}  // namespace fastsi::vote
