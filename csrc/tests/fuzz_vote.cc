// Random and mutated responses through the vote's C++, for sanitizers: spans through key_of_answer,
// responses through answer_key with every extractor, tokens through vote_answers. Checked: nothing
// crashes, reads beyond its text (every text is a heap block of exactly its size) or takes long;
// the same text gives the same key; a key is UTF-8 with a kind; broken token arguments throw.
//
// Usage: fastsi_fuzz_vote [--inputs N] [--seed S] [--limit-ms M]
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastsi/vote.h"
#include "fastsi/vote_answers.h"

namespace {

namespace vote = fastsi::vote;
using fastsi::DType;
using fastsi::TensorView;
using vote::Status;

constexpr std::size_t kLong = 1000000;  // bytes of the repetitive texts
constexpr std::uint64_t kLongEvery = 4096;
constexpr std::uint64_t kVoteEvery = 64;

std::mt19937_64 generator;
double limit_ms = 50.0;
double slowest_ms = 0.0;
std::string slowest_text;
std::array<std::uint64_t, 3> statuses{};

std::size_t pick(std::size_t below) { return generator() % below; }

template <std::size_t n>
const char* choose(const char* const (&from)[n]) {
  return from[pick(n)];
}

// The first bytes of a text as a C string would write them.
std::string escaped(const std::string& text) {
  std::string shown;
  for (const char c : text.substr(0, 400)) {
    char code[8];
    std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(c));
    c >= ' ' && c < 0x7F && c != '\\' ? shown += c : shown += code;
  }
  return shown;
}

[[noreturn]] void die(const char* what, const std::string& text) {
  std::fprintf(stderr, "fuzz: %s: %s\n", what, escaped(text).c_str());
  std::exit(1);
}

// --- grammar ------------------------------------------------------------------------------------

const char* const kPieces[] = {"18",
                               "-7",
                               "1,234.50",
                               "$",
                               "3/4",
                               "\\frac{1}{2}",
                               "\\dfrac12",
                               "%",
                               "\\%",
                               "(B)",
                               "B.",
                               "(c)",
                               "yes",
                               "No",
                               "true",
                               "x = ",
                               "(1, 2)",
                               "[0, 1)",
                               "{2, 1}",
                               " and ",
                               "3:30 pm",
                               "2:3",
                               "apples",
                               "km/h",
                               "cm^2",
                               "eighteen",
                               "twenty-one",
                               "two thirds",
                               "\\sqrt{3}",
                               "Paris",
                               "Mr. Smith",
                               "not",
                               "1.5e3",
                               "10^6",
                               "\\times 10^{3}",
                               u8"\u22125",
                               u8"\u00bd",
                               u8"\u00b2",
                               "3t",
                               u8"\u5143",
                               u8"\u0661\u0668",
                               "\\text{(B)}",
                               "\\pi",
                               " or ",
                               "May 6, 2020",
                               "2020-05-06",
                               "007",
                               ".5",
                               "**",
                               "`",
                               "\\left(",
                               "\\right)",
                               "\\begin{pmatrix}",
                               "1 & 2 \\\\ 3 & 4",
                               "\\end{pmatrix}",
                               "\\pm ",
                               "=",
                               "+",
                               "-",
                               "*",
                               "/",
                               "^",
                               "{",
                               "}",
                               "(",
                               ")",
                               "[",
                               "]",
                               "\\",
                               "~",
                               "\\,",
                               "{,}",
                               "\\!",
                               u8"\u00a0",
                               u8"\u202f",
                               u8"\u3000",
                               "\\cup ",
                               "\\infty",
                               "to ",
                               "between 5 and 7",
                               "degrees",
                               "^\\circ"};
const char* const kMarks[] = {"The answer is ",
                              "answer: ",
                              "**Answer:** ",
                              "#### ",
                              "\\boxed{",
                              "$\\boxed{",
                              "\\fbox {",
                              "\\boxed ",
                              "<answer>",
                              "</answer>",
                              "Final Answer\n",
                              "correct option is ",
                              "best choice: ",
                              "answer to 2.5, in dollars, is ",
                              "answer (cm): ",
                              "answers are option ",
                              "</think>",
                              "<think>",
                              "\\[",
                              "\\]",
                              "$$",
                              "\\(",
                              u8"\u7b54\u6848\u662f",
                              u8"\u7b54\uff1a",
                              "Antwort: ",
                              u8"R\u00e9ponse\u00a0: ",
                              u8"\u0627\u0644\u0625\u062c\u0627\u0628\u0629:",
                              "Question:",
                              "\nQ 12: ",
                              "\n**Problem 2:**",
                              "<|im_end|>",
                              "</s>",
                              "##",
                              "answer",
                              "\n",
                              ". ",
                              "!",
                              u8"\u3002",
                              "...",
                              " Mr.",
                              "First, we add 2 and 3. ",
                              "So it is ",
                              "Let me check: 3 + 4 = 7. ",
                              u8"caf\u00e9 ",
                              "unknown"};

std::string random_bytes(std::size_t most) {
  std::string text(pick(most + 1), '\0');
  for (char& c : text) c = static_cast<char>(generator());
  return text;
}

void mutate(std::string* text) {
  for (std::size_t edits = 1 + pick(4); edits > 0; --edits) {
    const std::size_t at = pick(text->size() + 1);
    const std::size_t length = std::min(text->size() - at, pick(12));
    switch (pick(5)) {
      case 0:
        text->erase(at, length);
        break;
      case 1:
        text->insert(at, random_bytes(3));
        break;
      case 2:
        text->insert(at, text->substr(at, length));
        break;
      case 3:
        text->insert(at, pick(40), static_cast<char>(' ' + pick(95)));
        break;
      default:
        text->insert(at, choose(kPieces));
    }
  }
}

std::string make_span() {
  std::string text;
  for (std::size_t parts = pick(6) + 1; parts > 0; --parts) {
    text += choose(kPieces);
    if (pick(3) == 0) text += ' ';
  }
  return text;
}

std::string make_response() {
  std::string text;
  for (std::size_t parts = pick(8); parts > 0; --parts) {
    text += choose(kMarks);
    if (pick(2) == 0) text += make_span();
  }
  return text;
}

// A short unit over and over: what makes careless code quadratic.
std::string make_long() {
  std::string unit = pick(2) == 0 ? choose(kMarks) : choose(kPieces);
  if (pick(2) == 0) unit += choose(kPieces);
  if (pick(4) == 0) unit += '\n';
  std::string text = pick(2) == 0 ? choose(kMarks) : "";
  while (text.size() < kLong) text += unit;
  return text;
}

// --- checks -------------------------------------------------------------------------------------

void check_key(Status status, const std::string& key, const std::string& text) {
  ++statuses[static_cast<std::size_t>(status)];
  if (status != Status::key) return;
  std::string repaired;
  const std::size_t colon = key.find(':');
  if (colon == 0 || colon + 1 >= key.size()) die("a key without kind or body", text);
  if (vote::valid_utf8(key, &repaired).data() != key.data()) die("a key is not UTF-8", text);
}

// Calls `read` twice on an exact copy of the text and compares; notes how long one call takes.
template <class Read>
void check_text(const std::string& text, Read&& read) {
  const std::unique_ptr<char[]> block(new char[text.size()]);
  std::memcpy(block.get(), text.data(), text.size());
  const std::string_view view(block.get(), text.size());
  std::string key, again;
  const std::clock_t begin = std::clock();
  const Status status = read(view, &key);
  const double ms = 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  if (ms > slowest_ms) {
    slowest_ms = ms;
    slowest_text = text.substr(0, 60);
  }
  if (ms > limit_ms) die("takes too long", text);
  if (text.size() < kLong && (read(view, &again) != status || again != key)) {
    die("two readings differ", text);
  }
  check_key(status, key, text);
}

void check_response(const std::string& text) {
  vote::ExtractOptions options;
  options.extractor = static_cast<vote::Extractor>(pick(2) == 0 ? 0 : pick(8));
  options.last_number = pick(2) == 0;
  if (pick(8) == 0) options.run_on = {"#", "*Q", "Answer"};
  check_text(text, [&](std::string_view view, std::string* key) {
    return vote::answer_key(view, options, key);
  });
}

template <class T>
TensorView view_of(std::vector<T>& values, DType dtype) {
  TensorView view;
  view.data = values.data();
  view.dtype = dtype;
  view.dims = 1;
  view.shape[0] = static_cast<std::int64_t>(values.size());
  view.stride[0] = 1;
  return view;
}

// The parts of a call of vote_answers; vectors of exactly their size.
struct Call {
  std::vector<char> data;
  std::vector<std::uint8_t> flags;
  std::vector<std::int64_t> offsets{0}, paths{0}, groups{0};
  std::vector<std::int32_t> tokens;
  std::vector<double> weights, logprobs;
};

Call make_call() {
  Call call;
  for (int token = 0; token < 40; ++token) {
    const std::string bytes = pick(4) == 0 ? random_bytes(4) : make_response().substr(0, 20);
    call.data.insert(call.data.end(), bytes.begin(), bytes.end());
    call.offsets.push_back(static_cast<std::int64_t>(call.data.size()));
    call.flags.push_back(static_cast<std::uint8_t>(pick(8) == 0 ? pick(4) : 0));
  }
  for (std::size_t groups = pick(4); groups > 0; --groups) {
    for (std::size_t paths = pick(5); paths > 0; --paths) {
      for (std::size_t tokens = pick(12); tokens > 0; --tokens) {
        call.tokens.push_back(static_cast<std::int32_t>(pick(40)));
      }
      call.paths.push_back(static_cast<std::int64_t>(call.tokens.size()));
      call.weights.push_back(static_cast<double>(pick(5) + 1) / 3.0);
      call.logprobs.push_back(-static_cast<double>(pick(5)));
    }
    call.groups.push_back(static_cast<std::int64_t>(call.paths.size() - 1));
  }
  call.data.shrink_to_fit();
  call.tokens.shrink_to_fit();
  return call;
}

// Runs both steps; throws what they throw.
void run(Call& call) {
  const std::size_t paths = call.paths.size() - 1, groups = call.groups.size() - 1;
  std::vector<std::int32_t> ids(paths), winner(groups), votes(groups), margin(groups), key(paths),
      count(paths);
  std::vector<double> share(groups), entropy(groups), weight(paths);
  std::vector<std::uint8_t> keep(paths), tie(groups);
  std::vector<std::int64_t> indptr(groups + 1);
  const fastsi::TokenBytes table{view_of(call.data, DType::u8), view_of(call.offsets, DType::i64),
                                 view_of(call.flags, DType::u8), pick(2) == 0};
  const TensorView key_id = view_of(ids, DType::i32);
  const fastsi::PathAnswers answers =
      fastsi::read_path_answers(view_of(call.tokens, DType::i32), view_of(call.paths, DType::i64),
                                table, vote::ExtractOptions(), key_id, 1);
  for (const std::int32_t id : ids) {
    if (id < -1 || id >= static_cast<std::int32_t>(answers.keys.size())) die("a key id", "");
  }
  const TensorView weights = view_of(call.weights, DType::f64);
  const TensorView logprobs = view_of(call.logprobs, DType::f64);
  fastsi::tally_votes(
      key_id, static_cast<std::int64_t>(answers.keys.size()), view_of(call.groups, DType::i64),
      pick(2) == 0 ? &logprobs : nullptr, pick(2) == 0 ? &weights : nullptr, 1, 0.0,
      {view_of(keep, DType::u8), view_of(winner, DType::i32), view_of(votes, DType::i32),
       view_of(share, DType::f64), view_of(margin, DType::i32), view_of(entropy, DType::f64),
       view_of(tie, DType::u8), view_of(indptr, DType::i64), view_of(key, DType::i32),
       view_of(count, DType::i32), view_of(weight, DType::f64)});
  for (std::size_t g = 0; g < groups; ++g) {
    if (!(share[g] >= 0.0 && share[g] <= 1.0 && entropy[g] >= 0.0)) die("a share or entropy", "");
  }
}

void check_votes() {
  Call call = make_call();
  run(call);
  // One fault, which must be refused and not followed.
  switch (pick(4)) {
    case 0:
      if (call.tokens.empty()) return;
      call.tokens[pick(call.tokens.size())] = pick(2) == 0 ? -1 : 40;
      break;
    case 1:
      call.paths.back() += 1;
      break;
    case 2:
      call.offsets[1 + pick(40)] = -1;
      break;
    default:
      call.groups.back() += 1;
  }
  try {
    run(call);
  } catch (const std::invalid_argument&) {
    return;
  }
  die("a broken argument was taken", "");
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t inputs = 50000, seed = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--inputs") {
      inputs = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--seed") {
      seed = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--limit-ms") {
      limit_ms = std::strtod(argv[i + 1], nullptr);
    } else {
      std::fprintf(stderr, "fuzz: unknown option %s\n", argv[i]);
      return 2;
    }
  }
  generator.seed(seed);
  for (std::uint64_t i = 0; i < inputs; ++i) {
    std::string span = make_span(), text = make_response();
    if (pick(3) == 0) mutate(&span);
    if (pick(3) == 0) mutate(&text);
    if (i % kLongEvery == 0) text = make_long();
    if (i % 2 == 0) {
      check_text(span, vote::key_of_answer);
    } else {
      check_response(text);
    }
    if (i % kLongEvery == 0) check_response(text);
    if (i % kVoteEvery == 0) check_votes();
  }
  const auto count = [](Status status) {
    return static_cast<unsigned long long>(statuses[static_cast<std::size_t>(status)]);
  };
  std::printf("%llu inputs, seed %llu: %llu keys, %llu without an answer, %llu left to the host\n",
              static_cast<unsigned long long>(inputs), static_cast<unsigned long long>(seed),
              count(Status::key), count(Status::none), count(Status::host));
  std::printf("slowest: %.2f ms: %s\n", slowest_ms, escaped(slowest_text).c_str());
  return 0;
}
