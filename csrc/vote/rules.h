// The rules of extraction, in the order of fastsi/vote/extract.py. Each takes valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fastsi/vote.h"

namespace fastsi::vote {

// Candidates a rule looks at, from the first or the last one on; marks in words.
inline constexpr std::size_t kMaxCandidates = 32;
inline constexpr std::size_t kMaxMarks = 64;

// The last `kMaxMarks` positions of those that are added.
class LastMarks {
 public:
  void add(std::size_t position) { at_[count_++ % kMaxMarks] = position; }
  std::size_t size() const { return count_ < kMaxMarks ? count_ : kMaxMarks; }
  // The i-th from the last one back.
  std::size_t from_last(std::size_t i) const { return at_[(count_ - 1 - i) % kMaxMarks]; }

 private:
  std::size_t at_[kMaxMarks];
  std::size_t count_ = 0;
};

Status boxed(std::string_view text, std::string* key);
Status announced(std::string_view text, std::string* key);
Status reversed_announced(std::string_view text, std::string* key);

// Words of fastsi/vote/marks.py.
bool denies(std::string_view clause);
// Ends of the marks in other languages, in order.
void foreign_marks(std::string_view text, LastMarks* ends);
// Choice letter of a foreign alphabet, 0 where the clause is none.
char foreign_letter(std::string_view clause);

}  // namespace fastsi::vote
