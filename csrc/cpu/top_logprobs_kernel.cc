// The likeliest tokens of one row. Compiled once per instruction set; see kernels.h.
//
// One pass over the logits counts those above the given token's and keeps the largest in a heap; of
// 50,000 in any order some 5 * ln(50,000 / 5) get into one of 5, so what a pass costs is reading. A
// second one sums the weights against the maximum. A log-prob's bits do not depend on how many are
// asked for.
#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

template <class S>
class TopRow {
  using T = Arith<S>;
  static constexpr int W = kLanes<T>;
  static constexpr unsigned kAll = (1u << W) - 1;

 public:
  explicit TopRow(const TopTask& task)
      : task_(task),
        logits_(static_cast<const S*>(task.logits)),
        value_(static_cast<T*>(task.logprobs)),
        ids_(task.token_ids) {}

  std::int64_t run() {
    const bool given = task_.token >= 0;
    const std::int64_t above = scan(given ? to_arith(logits_[task_.token]) : INFINITY);
    sort();
    fill();
    if (task_.count > 0) take_logprobs();
    return given ? above + 1 : 0;
  }

 private:
  // Keeps the largest logits; returns how many are above `own`.
  std::int64_t scan(T own) {
    std::int64_t above = 0;
    // Until the list is full, whatever is above -inf enters it.
    T edge = task_.count > 0 ? -INFINITY : INFINITY;
    for (std::int64_t i = 0; i < task_.vocab; i += W) {
      const std::int64_t left = task_.vocab - i;
      const Vec<T> x = load_lanes<S>(logits_ + i, left);
      const unsigned there = left < W ? (1u << left) - 1 : kAll;
      above += __builtin_popcount(bits_of(x > splat<T>(own)) & there);
      for (unsigned high = bits_of(x > splat<T>(edge)) & there; high != 0; high &= high - 1) {
        const int lane = __builtin_ctz(high);
        if (x[lane] > edge) edge = insert(x[lane], i + lane);
      }
    }
    return above;
  }

  // Whether entry a is to leave the heap before entry b: of equal logits the later token.
  bool worse(std::int64_t a, std::int64_t b) const {
    return value_[a] != value_[b] ? value_[a] < value_[b] : ids_[a] > ids_[b];
  }

  void swap(std::int64_t a, std::int64_t b) {
    const T x = value_[a];
    const std::int64_t id = ids_[a];
    value_[a] = value_[b], ids_[a] = ids_[b];
    value_[b] = x, ids_[b] = id;
  }

  void sink(std::int64_t at, std::int64_t end) {
    for (std::int64_t child; (child = 2 * at + 1) < end; at = child) {
      if (child + 1 < end && worse(child + 1, child)) ++child;
      if (!worse(child, at)) return;
      swap(child, at);
    }
  }

  // Tokens come in ascending order. Returns what the next logit must exceed.
  T insert(T x, std::int64_t token) {
    std::int64_t at = 0;
    if (kept_ < task_.count) at = kept_++;
    value_[at] = x;
    ids_[at] = token;
    if (at == 0) sink(0, kept_);
    for (; at > 0 && worse(at, (at - 1) / 2); at = (at - 1) / 2) swap(at, (at - 1) / 2);
    return kept_ < task_.count ? -INFINITY : value_[0];
  }

  // Likeliest first.
  void sort() {
    for (std::int64_t end = kept_ - 1; end > 0; --end) {
      swap(0, end);
      sink(0, end);
    }
  }

  // Where too few logits are above -inf: others, and none in place of a NaN.
  void fill() {
    for (std::int64_t i = 0; i < task_.vocab && kept_ < task_.count; ++i) {
      if (to_arith(logits_[i]) != -INFINITY) continue;
      value_[kept_] = -INFINITY;
      ids_[kept_++] = i;
    }
    for (; kept_ < task_.count; ++kept_) {
      value_[kept_] = NAN;
      ids_[kept_] = -1;
    }
  }

  void take_logprobs() {
    const T top = value_[0];
    vd sum{};
    for (std::int64_t i = 0; i < task_.vocab; i += W) {
      const std::int64_t left = task_.vocab - i;
      Vec<T> x = load_lanes<S>(logits_ + i, left) - splat<T>(top);
      for (std::int64_t lane = left; lane < W; ++lane) x[lane] = -INFINITY;
      sum = add_to(sum, exp_neg(x));
    }
    const double lse = static_cast<double>(top) + std::log(sum_of<double>(sum));
    for (std::int64_t i = 0; i < task_.count; ++i) {
      value_[i] = static_cast<T>(static_cast<double>(value_[i]) - lse);
    }
  }

  const TopTask& task_;
  const S* logits_;
  T* value_;  // logits of the tokens kept: a heap whose root leaves next, then sorted
  std::int64_t* ids_;
  std::int64_t kept_ = 0;
};

}  // namespace

std::int64_t top(const TopTask& task) {
  switch (task.dtype) {
    case DType::f32:
      return TopRow<float>(task).run();
    case DType::f64:
      return TopRow<double>(task).run();
    case DType::bf16:
      return TopRow<bf16>(task).run();
    default:
      return TopRow<f16>(task).run();
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
