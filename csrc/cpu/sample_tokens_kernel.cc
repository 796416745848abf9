// Draw of one token by inversion of one uniform. Compiled once per instruction set; see kernels.h.
//
// The vocabulary is cut into fixed blocks. One pass over the logits finds the maximum of every
// block and sums the block's weights exp((z - base) / T) in float64, where base is the largest
// logit so far; the sums are then brought to the common base max. The draw adds block sums in order
// until they exceed u * total, then looks inside that block alone, at the very weights that were
// summed. Truncation turns min-p, top-k and top-p into one lower bound on z, found by selection
// among the few tokens that can be near it; blocks whose maximum is below the bound are never read
// again.
#include "kernels.h"
#include "simd.h"

namespace fastsi {
namespace FASTSI_ISA {
namespace {

constexpr std::int64_t kBlock = 256;  // tokens

std::int64_t blocks_of(std::int64_t vocab) { return (vocab + kBlock - 1) / kBlock; }

// Puts the value at the edge of the heaviest prefix: the largest e in z[0..n) for which the weights
// of {z >= e} sum to at least `need`; -inf if all of them do not. Reorders z and weight. Expected
// linear time.
template <class T>
T select_edge(T* z, T* weight, std::int64_t n, double need) {
  std::uint32_t random = 12345;
  while (n > 0) {
    random = random * 1664525u + 1013904223u;
    const T pivot =
        z[static_cast<std::int64_t>((std::uint64_t{random} * static_cast<std::uint64_t>(n)) >> 32)];
    const auto swap = [&](std::int64_t a, std::int64_t b) {
      const T x = z[a], w = weight[a];
      z[a] = z[b], weight[a] = weight[b];
      z[b] = x, weight[b] = w;
    };
    // [0, above) > pivot, [above, i) == pivot, [below, n) < pivot.
    std::int64_t above = 0, i = 0, below = n;
    double mass_above = 0, mass_equal = 0;
    while (i < below) {
      if (z[i] > pivot) {
        mass_above += weight[i];
        swap(above++, i++);
      } else if (z[i] < pivot) {
        swap(i, --below);
      } else {
        mass_equal += weight[i++];
      }
    }
    if (mass_above >= need) {
      n = above;
    } else if (mass_above + mass_equal >= need) {
      return pivot;
    } else {
      need -= mass_above + mass_equal;
      z += below;
      weight += below;
      n -= below;
    }
  }
  return -INFINITY;
}

template <class S>
class Draw {
  using T = Arith<S>;
  static constexpr int W = kLanes<T>;
  static constexpr int kLine = 64 / static_cast<int>(sizeof(T)), kAhead = 4 * kBlock;

 public:
  static std::size_t scratch(std::int64_t vocab) {
    const std::int64_t blocks = blocks_of(vocab), padded = blocks * kBlock;
    return static_cast<std::size_t>(blocks) * sizeof(double) +
           static_cast<std::size_t>(3 * padded + 2 * blocks + 2 * kBlock) * sizeof(T);
  }

  Draw(const SampleTask& task, void* memory)
      : task_(task), blocks_(blocks_of(task.vocab)), greedy_(task.temperature == 0) {
    block_sum_ = static_cast<double*>(memory);
    z_copy_ = reinterpret_cast<T*>(block_sum_ + blocks_);
    candidate_ = z_copy_ + blocks_ * kBlock;
    candidate_weight_ = candidate_ + blocks_ * kBlock;
    block_max_ = candidate_weight_ + blocks_ * kBlock;
    block_base_ = block_max_ + blocks_;
    weight_ = block_base_ + blocks_;
    tail_ = weight_ + kBlock;
    temperature_ = greedy_ ? 1.0 : task.temperature;
    inverse_temperature_ = static_cast<T>(1.0 / temperature_);
  }

  SampleResult run() {
    place_logits();
    const bool apart = task_.raw && task_.num_adjusted == 0 && temperature_ != 1;
    apart ? scan<true>() : scan<false>();
    const double full = rebase_sums();
    // A NaN among the logits makes a sum NaN.
    if (!(max_ > -INFINITY && max_ < INFINITY) || full != full) return {-1, 0, 0, 0, 0};
    double kept = full;
    std::int64_t token;
    if (greedy_) {
      token = first_maximum();
    } else {
      if (set_bounds(full)) kept = sum_blocks();
      token = invert(task_.u * kept);
    }
    const double below =
        static_cast<double>(block(token / kBlock)[token % kBlock]) - static_cast<double>(max_);
    const double shifted = below / temperature_, logprob_full = shifted - std::log(full);
    double raw = logprob_full;
    if (apart) raw = below - std::log(raw_sum_);
    SampleResult result{token, shifted - std::log(kept), logprob_full, kept / full, raw};
    if (task_.raw && task_.num_adjusted > 0) result.logprob_raw = unadjusted_logprob(token);
    return result;
  }

 private:
  // Logits in arithmetic type: in place if nothing has to change, else a copy. The last, partial
  // block always goes to a copy padded with -inf.
  void place_logits() {
    const auto* logits = static_cast<const S*>(task_.logits);
    const std::int64_t whole = task_.vocab / kBlock * kBlock;
    T* tail = tail_;
    if constexpr (sizeof(S) == sizeof(T)) z_ = reinterpret_cast<const T*>(logits);
    if (sizeof(S) != sizeof(T) || task_.num_adjusted > 0) {
      for (std::int64_t i = 0; i < whole; i += W) store<T>(z_copy_ + i, load_as<S>(logits + i));
      z_ = z_copy_;
      tail = z_copy_ + whole;
    }
    for (std::int64_t i = whole; i < blocks_ * kBlock; ++i) {
      tail[i - whole] = i < task_.vocab ? to_arith(logits[i]) : -INFINITY;
    }
    last_ = whole < task_.vocab ? tail : z_ + whole - kBlock;
    for (std::int64_t i = 0; i < task_.num_adjusted; ++i) adjust(i);
  }

  void adjust(std::int64_t i) {
    T& z = z_copy_[task_.token_ids[i]];
    z += static_cast<T>(task_.bias[i]);
    const bool generated = task_.count[i] > 0;
    const T factor = static_cast<T>(task_.repetition);
    if (generated || task_.in_prompt[i] != 0) z = z > 0 ? z / factor : z * factor;
    z -= static_cast<T>(task_.frequency) * static_cast<T>(task_.count[i]);
    if (generated) z -= static_cast<T>(task_.presence);
  }

  const T* block(std::int64_t b) const { return b == blocks_ - 1 ? last_ : z_ + b * kBlock; }

  // Of a token, at temperature 1, by a pass of its own. Ends the use of what the scratch holds.
  double unadjusted_logprob(std::int64_t token) {
    SampleTask plain = task_;
    plain.num_adjusted = 0;
    plain.temperature = 0;
    plain.raw = false;
    const SampleResult best = Draw(plain, block_sum_).run();
    const auto* logits = static_cast<const S*>(task_.logits);
    if (best.token < 0) return NAN;
    return best.logprob_full + (static_cast<double>(to_arith(logits[token])) -
                                static_cast<double>(to_arith(logits[best.token])));
  }

  // Maximum of every block and sum of its weights against the largest logit so far; with `raw`, of
  // the weights at temperature 1 too.
  template <bool raw>
  void scan() {
    T base = -INFINITY;
    for (std::int64_t b = 0; b < blocks_; ++b) {
      const T* z = block(b);
      // The hardware stops reading ahead at the end of a page, four blocks on.
      for (int i = 0; i < kBlock; i += kLine) __builtin_prefetch(z + kAhead + i);
      Vec<T> top = load<T>(z);
      for (int i = W; i < kBlock; i += W) top = max(top, load<T>(z + i));
      block_max_[b] = max_of<T>(top);
      const T before = base;
      base = block_max_[b] > base ? block_max_[b] : base;
      block_base_[b] = base;
      const Vec<T> finite = splat<T>(base == -INFINITY ? T{0} : base);
      vd sum{}, raw_sum{};
      for (int i = 0; i < kBlock; i += W) {
        const Vec<T> x = load<T>(z + i) - finite;
        sum = add_to(sum, exp_neg(x * splat<T>(inverse_temperature_)));
        if constexpr (raw) raw_sum = add_to(raw_sum, exp_neg(x));
      }
      block_sum_[b] = sum_of<double>(sum);
      if constexpr (raw) {
        if (base > before && raw_sum_ > 0) {
          raw_sum_ *= std::exp(static_cast<double>(before) - static_cast<double>(base));
        }
        raw_sum_ += sum_of<double>(raw_sum);
      }
    }
    max_ = base;
  }

  // What turns a block's sum and weights into those against the maximum of all.
  double factor(T base) const {
    if (base == max_) return 1;
    return std::exp((static_cast<double>(base) - static_cast<double>(max_)) / temperature_);
  }

  double rebase_sums() {
    double total = 0, scale = 1;
    for (std::int64_t b = 0; b < blocks_; ++b) {
      if (b == 0 || block_base_[b] != block_base_[b - 1]) scale = factor(block_base_[b]);
      block_sum_[b] *= scale;
      total += block_sum_[b];
    }
    return total;
  }

  // Weights of a vector of tokens against a base: 0 for those that truncation drops.
  Vec<T> weigh(Vec<T> z, T base) const {
    const Vec<T> w = exp_neg((z - splat<T>(base)) * splat<T>(inverse_temperature_));
    const Vec<T> high = z >= splat<T>(bound_) ? w : Vec<T>{};
    return high >= splat<T>(least_weight_) ? high : Vec<T>{};
  }

  void weigh_block(std::int64_t b) {
    for (int i = 0; i < kBlock; i += W) {
      store<T>(weight_ + i, weigh(load<T>(block(b) + i), block_base_[b]));
    }
  }

  double sum_blocks() {
    double total = 0;
    for (std::int64_t b = 0; b < blocks_; ++b) {
      block_sum_[b] = 0;
      block_base_[b] = max_;
      if (block_max_[b] < bound_) continue;
      const T* z = block(b);
      vd sum{};
      for (int i = 0; i < kBlock; i += W) sum = add_to(sum, weigh(load<T>(z + i), max_));
      block_sum_[b] = sum_of<double>(sum);
      total += block_sum_[b];
    }
    return total;
  }

  std::int64_t first_maximum() const {
    std::int64_t b = 0;
    while (block_max_[b] < max_) ++b;
    std::int64_t i = 0;
    while (block(b)[i] < max_) ++i;
    return b * kBlock + i;
  }

  // First token, in vocabulary order, whose running sum exceeds the target.
  std::int64_t invert(double target) {
    double before = 0;
    std::int64_t last_block = 0;
    for (std::int64_t b = 0; b < blocks_; ++b) {
      if (block_sum_[b] > 0) last_block = b;
      if (before + block_sum_[b] > target) {
        weigh_block(b);
        const double scale = factor(block_base_[b]);
        double sum = 0;
        for (int i = 0; i < kBlock; ++i) {
          sum += static_cast<double>(weight_[i]);
          if (before + sum * scale > target) return b * kBlock + i;
        }
      }
      before += block_sum_[b];
    }
    // Rounding left none: the last token of non-zero weight.
    weigh_block(last_block);
    std::int64_t i = kBlock - 1;
    while (weight_[i] == 0) --i;
    return last_block * kBlock + i;
  }

  // Gathers the tokens with low <= z < high, with their weights; returns how many.
  std::int64_t gather(T low, T high) {
    std::int64_t n = 0;
    for (std::int64_t b = 0; b < blocks_; ++b) {
      if (block_max_[b] < low) continue;
      const T* z = block(b);
      for (int i = 0; i < kBlock; i += W) {
        const Vec<T> x = load<T>(z + i);
        unsigned inside = bits_of((x >= splat<T>(low)) & (x < splat<T>(high)));
        if (inside == 0) continue;
        const Vec<T> w = weigh(x, max_);
        for (; inside != 0; inside &= inside - 1) {
          const int lane = __builtin_ctz(inside);
          candidate_[n] = x[lane];
          candidate_weight_[n++] = w[lane];
        }
      }
    }
    return n;
  }

  // Sets bound_ and least_weight_; true if they may drop a token.
  bool set_bounds(double total) {
    const bool by_weight = task_.min_p > 0, by_mass = task_.top_p < 1;
    const bool by_count = task_.top_k > 0 && task_.top_k < task_.vocab;
    if (by_count) bound_ = kth_largest();
    if (by_weight) {
      least_weight_ = static_cast<T>(task_.min_p);
      // The weight decides; a bound a little below its logarithm only saves reading.
      const double depth = (-std::log(task_.min_p) * 1.001 + 1e-3) * task_.temperature;
      const T low = static_cast<T>(static_cast<double>(max_) - depth);
      bound_ = low > bound_ ? low : bound_;
    }
    if (by_mass) {
      if (by_weight || by_count) total = sum_blocks();
      bound_ = mass_edge(task_.top_p * total);
    }
    return by_weight || by_mass || by_count;
  }

  T kth_largest() {
    const auto k = static_cast<double>(task_.top_k);
    T low = -INFINITY;
    if (task_.top_k < blocks_) {
      // The k-th largest block maximum: at least k tokens reach it, so the edge does too.
      for (std::int64_t b = 0; b < blocks_; ++b) {
        candidate_[b] = block_max_[b];
        candidate_weight_[b] = 1;
      }
      low = select_edge<T>(candidate_, candidate_weight_, blocks_, k);
    }
    const std::int64_t n = gather(low, INFINITY);
    for (std::int64_t i = 0; i < n; ++i) candidate_weight_[i] = 1;
    return select_edge<T>(candidate_, candidate_weight_, n, k);
  }

  // Lower bound on z of the smallest set of likeliest kept tokens whose mass is at least `need`.
  T mass_edge(double need) {
    // Most of the mass is near the maximum: go down in bands until it suffices.
    T high = INFINITY;
    for (const double depth : {2.0, 4.0, 6.0, 8.0, 10.0, 14.0, static_cast<double>(INFINITY)}) {
      T low = static_cast<T>(static_cast<double>(max_) - depth * task_.temperature);
      low = low > bound_ ? low : bound_;
      const std::int64_t n = gather(low, high);
      double mass = 0;
      for (std::int64_t i = 0; i < n; ++i) mass += static_cast<double>(candidate_weight_[i]);
      if (mass >= need) return select_edge<T>(candidate_, candidate_weight_, n, need);
      if (low == bound_) break;
      need -= mass;
      high = low;
    }
    return bound_;  // rounding: all of them are needed
  }

  const SampleTask& task_;
  std::int64_t blocks_;
  bool greedy_;
  double temperature_, raw_sum_ = 0;
  T inverse_temperature_, max_ = 0;
  T bound_ = -INFINITY;  // tokens below it are dropped
  T least_weight_ = 0;   // tokens that weigh less are dropped
  const T *z_ = nullptr, *last_ = nullptr;
  double* block_sum_;
  T *z_copy_, *candidate_, *candidate_weight_, *block_max_, *block_base_, *weight_, *tail_;
};

template <class S>
SampleResult draw(const SampleTask& task, void* scratch) {
  return Draw<S>(task, scratch).run();
}

}  // namespace

std::size_t sample_scratch(const SampleTask& task) {
  return task.dtype == DType::f64 ? Draw<double>::scratch(task.vocab)
                                  : Draw<float>::scratch(task.vocab);
}

SampleResult sample(const SampleTask& task, void* scratch) {
  switch (task.dtype) {
    case DType::f32:
      return draw<float>(task, scratch);
    case DType::f64:
      return draw<double>(task, scratch);
    case DType::bf16:
      return draw<bf16>(task, scratch);
    default:
      return draw<f16>(task, scratch);
  }
}

}  // namespace FASTSI_ISA
}  // namespace fastsi
