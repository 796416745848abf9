#include "fastsi/vote_answers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <unordered_map>

#include "fastsi/parallel.h"

namespace fastsi {
namespace {

constexpr std::uint8_t kSkipped = 1, kByte = 2;  // flags of fastsi.ops.TokenBytes
constexpr std::int64_t kPathsPerTask = 16;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The text of one path after another. Short tokens are copied in one piece of kPiece bytes,
// whatever their length, where the table has that many: a copy of fixed size is one instruction.
class Text {
 public:
  void clear() { size_ = 0; }
  std::string_view view() const { return {bytes_.data(), size_}; }
  void append(std::string_view bytes, bool whole_piece) {
    if (size_ + std::max(bytes.size(), kPiece) > bytes_.size()) {
      bytes_.resize(2 * bytes_.size() + bytes.size() + kPiece);
    }
    if (whole_piece && bytes.size() <= kPiece) {
      std::memcpy(bytes_.data() + size_, bytes.data(), kPiece);
    } else {
      std::memcpy(bytes_.data() + size_, bytes.data(), bytes.size());
    }
    size_ += bytes.size();
  }

  static constexpr std::size_t kPiece = 16;

 private:
  std::vector<char> bytes_ = std::vector<char>(1024);
  std::size_t size_ = 0;
};

// A checked TokenBytes.
struct Table {
  const char* data;
  const std::int64_t* offsets;
  const std::uint8_t* flags;
  std::int64_t size;
  std::int64_t end_of_pieces = 0;  // tokens before it have kPiece readable bytes
  bool strip_first_blank;

  explicit Table(const TokenBytes& from) : strip_first_blank(from.strip_first_blank) {
    require_dims("table.flags", from.flags, 1);
    size = from.flags.shape[0];
    flags = vector_of<std::uint8_t>("table.flags", from.flags, DType::u8, size);
    offsets = vector_of<std::int64_t>("table.offsets", from.offsets, DType::i64, size + 1);
    require_dims("table.data", from.data, 1);
    const std::int64_t bytes = from.data.shape[0];
    data = vector_of<char>("table.data", from.data, DType::u8, bytes);
    FASTSI_CHECK(offsets[0] == 0 && offsets[size] <= bytes, "table.offsets: span [", offsets[0],
                 ", ", offsets[size], "], must be within [0, ", bytes, "]");
    for (std::int64_t token = 0; token < size; ++token) {
      FASTSI_CHECK(offsets[token] <= offsets[token + 1], "table.offsets[", token + 1,
                   "]: ", offsets[token + 1], ", must not fall");
    }
  }

  std::string_view bytes(std::int64_t token) const {
    return {data + offsets[token], static_cast<std::size_t>(offsets[token + 1] - offsets[token])};
  }
};

const std::int64_t* checked_indptr(const char* name, const TensorView& view, std::int64_t end) {
  require_dims(name, view, 1);
  const std::int64_t count = view.shape[0];
  FASTSI_CHECK(count >= 1, name, ": is empty, must hold at least 0");
  const auto* indptr = vector_of<std::int64_t>(name, view, DType::i64, count);
  FASTSI_CHECK(indptr[0] == 0 && indptr[count - 1] == end, name, ": spans [", indptr[0], ", ",
               indptr[count - 1], "], must span [0, ", end, "]");
  for (std::int64_t i = 1; i < count; ++i) {
    FASTSI_CHECK(indptr[i - 1] <= indptr[i], name, "[", i, "]: ", indptr[i], ", must not fall");
  }
  return indptr;
}

// Appends a run of byte-fallback tokens: one U+FFFD each unless together they are UTF-8.
void append_run(std::string* run, Text* text) {
  std::string repaired;
  if (vote::valid_utf8(*run, &repaired).data() == run->data()) {
    text->append(*run, false);
  } else {
    for (std::size_t i = 0; i < run->size(); ++i) text->append("\xEF\xBF\xBD", false);
  }
  run->clear();
}

template <class Token>
void append_tokens(const Table& table, const Token* tokens, std::int64_t count, Text* text) {
  std::string run;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto token = static_cast<std::int64_t>(tokens[i]);
    FASTSI_CHECK(0 <= token && token < table.size, "tokens: ", token,
                 " is not a token id, must be in [0, ", table.size, ")");
    const std::uint8_t flags = table.flags[token];
    if (flags == 0) {
      if (!run.empty()) append_run(&run, text);
      text->append(table.bytes(token), token < table.end_of_pieces);
    } else if ((flags & kSkipped) == 0) {
      run.append(table.bytes(token));
    }
  }
  if (!run.empty()) append_run(&run, text);
}

std::string_view text_of(const Table& table, const TensorView& tokens, std::int64_t begin,
                         std::int64_t end, Text* text) {
  text->clear();
  if (tokens.dtype == DType::i32) {
    append_tokens(table, static_cast<const std::int32_t*>(tokens.data) + begin, end - begin, text);
  } else {
    append_tokens(table, static_cast<const std::int64_t*>(tokens.data) + begin, end - begin, text);
  }
  std::string_view view = text->view();
  if (table.strip_first_blank && !view.empty() && view[0] == ' ') view.remove_prefix(1);
  return view;
}

// --- votes --------------------------------------------------------------------------------------

// Correctly rounded sum, in any order (Shewchuk; what Python's math.fsum computes). A NaN counts as
// -inf, and -inf swallows the rest.
class ExactSum {
 public:
  void add(double value) {
    if (!(std::fabs(value) < kInfinity)) {
      special_ = std::isnan(value) || value < 0 || special_ < 0 ? -kInfinity : kInfinity;
      return;
    }
    std::size_t kept = 0;
    for (double part : parts_) {
      if (std::fabs(value) < std::fabs(part)) std::swap(value, part);
      const double high = value + part;
      if (!(std::fabs(high) < kInfinity)) {
        if (special_ == 0.0) special_ = high;
        return;
      }
      const double low = part - (high - value);
      if (low != 0.0) parts_[kept++] = low;
      value = high;
    }
    parts_.resize(kept);
    parts_.push_back(value);
  }

  double value() const {
    if (special_ != 0.0) return special_;
    std::size_t i = parts_.size();
    if (i == 0) return 0.0;
    double high = parts_[--i], low = 0.0;
    while (i > 0) {
      const double before = high, part = parts_[--i];
      high = before + part;
      low = part - (high - before);
      if (low != 0.0) break;
    }
    // Half-way cases are decided by the next part.
    if (i > 0 && ((low < 0.0 && parts_[i - 1] < 0.0) || (low > 0.0 && parts_[i - 1] > 0.0))) {
      const double twice = low * 2.0, rounded = high + twice;
      if (twice == rounded - high) high = rounded;
    }
    return high;
  }

 private:
  std::vector<double> parts_;
  double special_ = 0.0;
};

struct Answer {
  std::int32_t key = 0, count = 0;
  ExactSum weights, likelihoods;
  double weight = 0.0, likelihood = 0.0;
};

struct Group {
  std::int64_t index, begin, end;
  std::int64_t paths() const { return end - begin; }
};

// Weights of a group's paths, scaled to sum to their number.
std::vector<double> scaled_weights(const double* weights, const Group& group) {
  double most = 0.0;
  for (std::int64_t i = group.begin; i < group.end; ++i) {
    FASTSI_CHECK(0.0 <= weights[i] && weights[i] < kInfinity, "weights[", i, "]: ", weights[i],
                 ", must be a finite number >= 0");
    most = std::max(most, weights[i]);
  }
  FASTSI_CHECK(most > 0.0 || group.paths() == 0, "weights: all of group ", group.index,
               " are 0; at least one path must weigh something");
  ExactSum whole;
  for (std::int64_t i = group.begin; i < group.end; ++i) whole.add(weights[i] / most);
  const double mean = whole.value() / static_cast<double>(group.paths());
  std::vector<double> scaled;
  for (std::int64_t i = group.begin; i < group.end; ++i) scaled.push_back(weights[i] / most / mean);
  return scaled;
}

double entropy_of(const std::vector<Answer>& answers) {
  ExactSum sum, entropy;
  for (const Answer& answer : answers) sum.add(answer.weight);
  const double whole = sum.value();
  for (const Answer& answer : answers) {
    if (answer.weight > 0.0) {
      entropy.add(answer.weight / whole * std::log(whole / answer.weight));
    }
  }
  return entropy.value();
}

// The group's answers, best first. `slot` holds -1 for every key, before and after.
std::vector<Answer> ranked_answers(const Group& group, const std::int32_t* key_id,
                                   const double* logprobs, const double* weights,
                                   std::vector<std::int32_t>* slot) {
  std::vector<double> scaled;
  if (weights != nullptr) scaled = scaled_weights(weights, group);
  std::vector<Answer> answers;  // in order of their first path
  for (std::int64_t i = group.begin; i < group.end; ++i) {
    if (key_id[i] < 0) continue;
    std::int32_t& at = (*slot)[static_cast<std::size_t>(key_id[i])];
    if (at < 0) {
      at = static_cast<std::int32_t>(answers.size());
      answers.emplace_back();
      answers.back().key = key_id[i];
    }
    Answer& answer = answers[static_cast<std::size_t>(at)];
    ++answer.count;
    if (weights != nullptr) answer.weights.add(scaled[static_cast<std::size_t>(i - group.begin)]);
    if (logprobs != nullptr) answer.likelihoods.add(logprobs[i]);
  }
  for (Answer& answer : answers) {
    (*slot)[static_cast<std::size_t>(answer.key)] = -1;
    answer.weight = weights != nullptr ? answer.weights.value() : answer.count;
    answer.likelihood = answer.likelihoods.value();
  }
  std::stable_sort(answers.begin(), answers.end(), [](const Answer& a, const Answer& b) {
    if (a.weight != b.weight) return a.weight > b.weight;
    if (a.count != b.count) return a.count > b.count;
    return a.likelihood > b.likelihood;
  });
  return answers;
}

template <class T>
T* output(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

}  // namespace

PathAnswers read_path_answers(const TensorView& tokens, const TensorView& path_indptr,
                              const TokenBytes& table_view, const vote::ExtractOptions& options,
                              const TensorView& key_id, int threads) {
  require_dims("tokens", tokens, 1);
  require_contiguous("tokens", tokens);
  FASTSI_CHECK(tokens.dtype == DType::i32 || tokens.dtype == DType::i64, "tokens: is ",
               name_of(tokens.dtype), ", must be int32 or int64");
  const std::int64_t* indptr = checked_indptr("path_indptr", path_indptr, tokens.shape[0]);
  const std::int64_t paths = path_indptr.shape[0] - 1;
  auto* ids = output<std::int32_t>("key_id", key_id, DType::i32, paths);
  const Table table(table_view);

  std::vector<vote::Status> statuses(static_cast<std::size_t>(paths));
  std::vector<std::string> found(static_cast<std::size_t>(paths));  // the key, or the host's text
  const std::int64_t tasks = (paths + kPathsPerTask - 1) / kPathsPerTask;
  parallel_for(tasks, threads, [&](std::int64_t task) {
    Text text;
    std::string repaired;
    const std::int64_t end = std::min(paths, (task + 1) * kPathsPerTask);
    for (std::int64_t path = task * kPathsPerTask; path < end; ++path) {
      const auto i = static_cast<std::size_t>(path);
      const std::string_view view = text_of(table, tokens, indptr[path], indptr[path + 1], &text);
      statuses[i] = vote::answer_key(view, options, &found[i]);
      if (statuses[i] == vote::Status::host) found[i] = vote::valid_utf8(view, &repaired);
    }
  });

  PathAnswers answers;
  std::unordered_map<std::string_view, std::int32_t> known;  // views into `found`
  for (std::int64_t path = 0; path < paths; ++path) {
    const auto i = static_cast<std::size_t>(path);
    ids[path] = -1;
    if (statuses[i] == vote::Status::host) answers.host.emplace_back(path, std::move(found[i]));
    if (statuses[i] != vote::Status::key) continue;
    const auto [at, is_new] = known.emplace(found[i], static_cast<std::int32_t>(known.size()));
    if (is_new) answers.keys.push_back(found[i]);
    ids[path] = at->second;
  }
  return answers;
}

void tally_votes(const TensorView& key_id, std::int64_t num_keys, const TensorView& group_indptr,
                 const TensorView* logprobs, const TensorView* weights, std::int64_t min_lead,
                 double min_share, const VoteTensors& result) {
  require_dims("key_id", key_id, 1);
  const std::int64_t paths = key_id.shape[0];
  const auto* ids = vector_of<std::int32_t>("key_id", key_id, DType::i32, paths);
  for (std::int64_t i = 0; i < paths; ++i) {
    FASTSI_CHECK(-1 <= ids[i] && ids[i] < num_keys, "key_id[", i, "]: ", ids[i],
                 ", must be in [-1, ", num_keys, ")");
  }
  const std::int64_t* bounds = checked_indptr("group_indptr", group_indptr, paths);
  const std::int64_t groups = group_indptr.shape[0] - 1;
  const auto optional = [&](const char* name, const TensorView* view) {
    return view == nullptr ? nullptr : vector_of<double>(name, *view, DType::f64, paths);
  };
  const double* likelihood = optional("logprobs", logprobs);
  const double* weight = optional("weights", weights);
  auto* keep = output<std::uint8_t>("keep", result.keep, DType::u8, paths);
  auto* winner = output<std::int32_t>("winner", result.winner, DType::i32, groups);
  auto* votes = output<std::int32_t>("votes", result.votes, DType::i32, groups);
  auto* share = output<double>("share", result.share, DType::f64, groups);
  auto* margin = output<std::int32_t>("margin", result.margin, DType::i32, groups);
  auto* entropy = output<double>("entropy", result.entropy, DType::f64, groups);
  auto* tie = output<std::uint8_t>("tie", result.tie, DType::u8, groups);
  auto* ends = output<std::int64_t>("answer_indptr", result.answer_indptr, DType::i64, groups + 1);
  auto* keys = output<std::int32_t>("answer_key", result.answer_key, DType::i32, paths);
  auto* counts = output<std::int32_t>("answer_count", result.answer_count, DType::i32, paths);
  auto* sums = output<double>("answer_weight", result.answer_weight, DType::f64, paths);

  std::vector<std::int32_t> slot(static_cast<std::size_t>(num_keys), -1);
  std::int64_t written = 0;
  ends[0] = 0;
  for (std::int64_t g = 0; g < groups; ++g) {
    const Group group{g, bounds[g], bounds[g + 1]};
    const std::vector<Answer> answers = ranked_answers(group, ids, likelihood, weight, &slot);
    const bool any = !answers.empty();
    std::int32_t others = 0;
    votes[g] = 0;
    for (std::size_t i = 0; i < answers.size(); ++i, ++written) {
      keys[written] = answers[i].key;
      counts[written] = answers[i].count;
      sums[written] = answers[i].weight;
      votes[g] += answers[i].count;
      if (i > 0) others = std::max(others, answers[i].count);
    }
    ends[g + 1] = written;
    winner[g] = any ? answers[0].key : -1;
    share[g] = any ? std::min(1.0, answers[0].weight / static_cast<double>(group.paths())) : 0.0;
    margin[g] = any ? answers[0].count - others : 0;
    entropy[g] = entropy_of(answers);
    tie[g] = answers.size() > 1 && answers[0].weight == answers[1].weight;
    const bool clear = any && margin[g] >= min_lead && share[g] >= min_share;
    for (std::int64_t i = group.begin; i < group.end; ++i) keep[i] = clear && ids[i] == winner[g];
  }
}

}  // namespace fastsi
