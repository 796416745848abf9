// Random texts through match_stop and first_answer: pieces that the rules know, and random bytes.
// Fed in random tokens, a text must hit exactly where the whole text shows an answer first.
#include "fastsi/match_stop.h"

#include "fuzz.h"

namespace fuzz {
namespace {

const std::vector<std::string>& pieces() {
  static const std::vector<std::string> all = {
      "\\boxed", "\\fbox",   "{",       "}",         "\\",      "####",
      "\n",      " ",        ".",       "!",         "*",       "$",
      ")",       "]",        "(",       "answer",    "ANSWERS", " is",
      ":",       "<answer>", "<think>", "</answer>", "12",      "</think>",
      "3.5",     "yes",      "\\frac",  "\xC3\xA9",  ">",       "answer is 5. "};
  return all;
}

std::string random_text() {
  std::string text;
  for (std::int64_t i = pick(0, 40); i > 0; --i) {
    if (pick(0, 15) == 0) {
      text.append(static_cast<std::size_t>(pick(1, 300)), static_cast<char>(pick(0, 255)));
    } else {
      text += pieces()[static_cast<std::size_t>(
          pick(0, static_cast<std::int64_t>(pieces().size()) - 1))];
    }
  }
  return text;
}

}  // namespace

void match_stop() {
  // A token per cut, so that the table is the text itself.
  const std::string text = random_text();
  std::vector<std::int64_t> cuts = {0};
  while (cuts.back() < static_cast<std::int64_t>(text.size())) {
    const auto left = static_cast<std::int64_t>(text.size()) - cuts.back();
    cuts.push_back(cuts.back() + pick(0, std::min<std::int64_t>(left, 9)));
  }
  const auto size = static_cast<std::int64_t>(text.size());
  const auto count = static_cast<std::int64_t>(cuts.size()) - 1;
  Tensor data(DType::u8, {size}), offsets(DType::i64, {count + 1}), flags(DType::u8, {count});
  std::copy(text.begin(), text.end(), data.as<char>());
  std::copy(cuts.begin(), cuts.end(), offsets.as<std::int64_t>());
  Tensor classes(DType::i64, {2}), strings(DType::i64, {1}), bytes(DType::u8, {0});
  Tensor answers(DType::u8, {1}), special(DType::u8, {1});
  answers.as<std::uint8_t>()[0] = 1;
  Tensor rule(DType::i32, {3}), length(DType::i32, {3}), thinking(DType::u8, {3});
  Tensor tail(DType::u8, {3, fastsi::kAnswerWindow});
  Tensor token(DType::i64, {1}), slot(DType::i64, {1}), hit(DType::u8, {1});
  slot.as<std::int64_t>()[0] = 2;
  for (std::int64_t t = 0; t < count; ++t) {
    token.as<std::int64_t>()[0] = t;
    fastsi::match_stop(token.view, slot.view, {data.view, offsets.view, flags.view},
                       {classes.view, strings.view, bytes.view, answers.view, special.view},
                       {rule.view, tail.view, length.view, thinking.view}, hit.view);
    // An answer completed by this token is the first one from its own bytes on.
    const auto upto = static_cast<std::size_t>(cuts[static_cast<std::size_t>(t) + 1]);
    const std::int64_t found = fastsi::first_answer(std::string_view(text).substr(0, upto),
                                                    cuts[static_cast<std::size_t>(t)], false);
    require(found <= static_cast<std::int64_t>(upto), "first_answer: ends in the text");
    require((found >= 0) == (hit.as<std::uint8_t>()[0] == 1), "match_stop: any cut hits alike");
  }
}

}  // namespace fuzz
