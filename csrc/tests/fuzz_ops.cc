// Random calls of every op on every instruction set, for sanitizers: valid ones, whose results are
// compared with plain loops in double, and broken ones, which must throw and touch nothing. Every
// buffer is exactly as large as its view, so that one element too far is an error.
//
// Usage: fastsi_fuzz_ops SEED ROUNDS
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fastsi/isa.h"
#include "fastsi/ops.h"
#include "fastsi/parallel.h"
#include "fastsi/philox.h"
#include "fuzz.h"

namespace {

using namespace fuzz;

struct PlanLists {
  std::vector<std::int32_t> indptr{0}, ids, offset, length, start, begin, end, causal, per_path,
      pos;
  std::int64_t page_size = 1, pages = 0;

  fastsi::SegmentPlan build() const {
    const Tensor t[] = {ints(indptr), ints(ids), ints(offset), ints(length),   ints(start),
                        ints(begin),  ints(end), ints(causal), ints(per_path), ints(pos)};
    return fastsi::SegmentPlan(t[0].view, t[1].view, t[2].view, t[3].view, t[4].view, t[5].view,
                               t[6].view, t[7].view, t[8].view, t[9].view, page_size);
  }
};

PlanLists random_plan() {
  PlanLists plan;
  const auto rows = static_cast<std::int32_t>(pick(0, 40));
  plan.page_size = pick(1, 17);
  for (std::int32_t r = 0; r < rows; ++r)
    plan.pos.push_back(static_cast<std::int32_t>(pick(0, 200)));
  for (std::int64_t s = pick(0, 6); s > 0; --s) {
    const std::int64_t length = pick(0, 3) == 0 ? 0 : pick(1, 140),
                       offset = pick(0, plan.page_size - 1);
    const std::int64_t count = (offset + length + plan.page_size - 1) / plan.page_size;
    for (std::int64_t i = 0; i < count; ++i)
      plan.ids.push_back(static_cast<std::int32_t>(plan.pages++));
    plan.indptr.push_back(static_cast<std::int32_t>(plan.ids.size()));
    plan.offset.push_back(static_cast<std::int32_t>(offset));
    plan.length.push_back(static_cast<std::int32_t>(length));
    plan.start.push_back(static_cast<std::int32_t>(pick(0, 150)));
    plan.begin.push_back(static_cast<std::int32_t>(pick(0, rows)));
    plan.end.push_back(static_cast<std::int32_t>(pick(plan.begin.back(), rows)));
    plan.causal.push_back(static_cast<std::int32_t>(pick(0, 1)));
    plan.per_path.push_back(static_cast<std::int32_t>(pick(0, 1)));
  }
  std::shuffle(plan.ids.begin(), plan.ids.end(), generator);
  return plan;
}

// Attention of one row and head by plain loops; returns the log-sum.
double plain_attention(const PlanLists& plan, const Tensor& q, const Tensor& k, const Tensor& v,
                       const fastsi::AttentionOptions& options, std::int64_t row, std::int64_t head,
                       std::vector<double>& out) {
  const std::int64_t dim = q.view.shape[2], heads = q.view.shape[1], kv = k.view.shape[1];
  std::vector<std::int64_t> at;
  std::vector<double> score;
  for (std::size_t s = 0; s < plan.length.size(); ++s) {
    if (row < plan.begin[s] || row >= plan.end[s]) continue;
    for (std::int64_t t = 0; t < plan.length[s]; ++t) {
      const std::int64_t distance = plan.pos[row] - (plan.start[s] + t);
      if (plan.causal[s] && distance < 0) continue;
      if (options.window > 0 && distance >= options.window) continue;
      const std::int64_t slot = plan.offset[s] + t;
      const std::int64_t page = plan.ids[plan.indptr[s] + slot / plan.page_size];
      at.push_back(((page * kv + head / (heads / kv)) * plan.page_size + slot % plan.page_size) *
                   dim);
      double dot = 0;
      for (std::int64_t d = 0; d < dim; ++d) {
        dot += q.get((row * heads + head) * dim + d) * k.get(at.back() + d);
      }
      dot *= options.scale;
      score.push_back(options.softcap > 0 ? options.softcap * std::tanh(dot / options.softcap)
                                          : dot);
    }
  }
  out.assign(static_cast<std::size_t>(dim), 0.0);
  if (score.empty()) return -INFINITY;
  const double top = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (double s : score) sum += std::exp(s - top);
  for (std::size_t i = 0; i < score.size(); ++i) {
    for (std::int64_t d = 0; d < dim; ++d)
      out[d] += std::exp(score[i] - top) / sum * v.get(at[i] + d);
  }
  return top + std::log(sum);
}

void fuzz_attention() {
  const PlanLists lists = random_plan();
  const DType dtype = random_float(), cache = random_cache(dtype);
  const auto rows = static_cast<std::int64_t>(lists.pos.size());
  const std::int64_t kv = pick(1, 3), heads = kv * pick(1, 9);
  const std::int64_t dim = pick(0, 7) ? pick(1, 70) : pick(71, 256);
  Tensor q(dtype, {rows, heads, dim}), out(dtype, {rows, heads, dim});
  Tensor k(cache, {lists.pages, kv, lists.page_size, dim}),
      v(cache, {lists.pages, kv, lists.page_size, dim});
  Tensor lse(dtype == DType::f64 ? DType::f64 : DType::f32, {rows, heads});
  for (Tensor* tensor : {&q, &k, &v}) tensor->fill_normal();
  fastsi::AttentionOptions options;
  options.scale = 0.3;
  options.softcap = pick(0, 1) ? 0.0 : 5.0;
  options.window = pick(0, 1) ? 0 : pick(1, 200);
  fastsi::segment_attention(q.view, {k.view, v.view}, lists.build(), options, out.view, lse.view,
                            static_cast<int>(pick(1, 3)));
  std::vector<double> expected;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(rows * heads, 5); ++i) {
    const std::int64_t row = pick(0, rows - 1), head = pick(0, heads - 1);
    const double sum = plain_attention(lists, q, k, v, options, row, head, expected);
    const double got = lse.get(row * heads + head);
    require(sum == got || std::abs(sum - got) < tolerance(dtype), "attention: lse");
    for (std::int64_t d = 0; d < dim; ++d) {
      const double error = out.get((row * heads + head) * dim + d) - expected[d];
      require(std::abs(error) < tolerance(dtype), "attention: out");
    }
  }
}

void fuzz_bad_plan() {
  PlanLists plan = random_plan();
  if (plan.length.empty() || plan.pos.empty()) return;
  const auto s =
      static_cast<std::size_t>(pick(0, static_cast<std::int64_t>(plan.length.size()) - 1));
  const auto far = static_cast<std::int32_t>(pick(1000, 1 << 30));
  switch (pick(0, 5)) {
    case 0:
      plan.length[s] = far;
      break;
    case 1:
      plan.offset[s] = pick(0, 1) ? far : -1;
      break;
    case 2:
      plan.end[s] = far;
      break;
    case 3:
      plan.begin[s] = -far;
      break;
    case 4:
      plan.indptr[s + 1] = far;
      break;
    default:
      plan.length[s] = -far;
  }
  try {
    plan.build();
  } catch (const std::invalid_argument&) {
    return;
  }
  die("a broken plan was accepted");
}

void fuzz_merge() {
  const DType dtype = random_float();
  const std::int64_t n = pick(1, 5), rows = pick(0, 9), heads = pick(1, 4), dim = pick(1, 300);
  const DType sums = dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensor outs(dtype, {n, rows, heads, dim}), lses(sums, {n, rows, heads});
  Tensor out(dtype, {rows, heads, dim}), lse(sums, {rows, heads});
  outs.fill_normal();
  lses.fill_normal(4.0);
  fastsi::merge_states(outs.view, lses.view, out.view, lse.view, static_cast<int>(pick(1, 3)));
  const std::int64_t states = rows * heads;
  for (std::int64_t i = 0; i < states; ++i) {
    double sum = 0, mean = 0;
    for (std::int64_t p = 0; p < n; ++p) {
      sum += std::exp(lses.get(p * states + i));
      mean += std::exp(lses.get(p * states + i)) * outs.get((p * states + i) * dim);
    }
    require(std::abs(lse.get(i) - std::log(sum)) < tolerance(sums), "merge: lse");
    require(std::abs(out.get(i * dim) - mean / sum) < tolerance(dtype), "merge: out");
  }
}

// Exactly, or rounded to 8 significant bits: off by at most half a unit in the last place.
bool stored(double from, double got, bool exact) {
  return exact ? from == got : std::abs(from - got) <= std::abs(from) * 0x1p-8;
}

void fuzz_kv_write() {
  const DType dtype = random_float(), cache = random_cache(dtype);
  const std::int64_t pages = pick(1, 6), heads = pick(1, 3), size = pick(1, 20), dim = pick(1, 70);
  const std::int64_t rows = pick(0, pages * size);
  Tensor k(dtype, {rows, heads, dim}), v(dtype, {rows, heads, dim});
  Tensor k_cache(cache, {pages, heads, size, dim}), v_cache(cache, {pages, heads, size, dim});
  Tensor slots(DType::i64, {rows});
  k.fill_normal();
  v.fill_normal();
  std::vector<std::int64_t> order(static_cast<std::size_t>(pages * size));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  std::shuffle(order.begin(), order.end(), generator);
  for (std::int64_t r = 0; r < rows; ++r) slots.as<std::int64_t>()[r] = pick(0, 4) ? order[r] : -1;
  const bool broken = rows > 0 && pick(0, 3) == 0;
  if (broken) slots.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? pages * size : -2;
  try {
    fastsi::kv_write(k.view, v.view, {k_cache.view, v_cache.view}, slots.view, 2);
    require(!broken, "a bad slot was accepted");
  } catch (const std::invalid_argument&) {
    require(broken, "a good slot was refused");
    for (std::int64_t i = 0; i < k_cache.view.numel(); ++i) {
      require(k_cache.get(i) == 0, "written before the refusal");
    }
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t slot = slots.as<std::int64_t>()[r];
    if (slot < 0) continue;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t to = ((slot / size * heads + h) * size + slot % size) * dim;
      for (std::int64_t d = 0; d < dim; ++d) {
        const std::int64_t from = (r * heads + h) * dim + d;
        require(stored(k.get(from), k_cache.get(to + d), cache == dtype), "kv_write: k");
        require(stored(v.get(from), v_cache.get(to + d), cache == dtype), "kv_write: v");
      }
    }
  }
}

void fuzz_sample() {
  const DType dtype = random_float();
  const std::int64_t rows = pick(1, 4), vocab = pick(1, pick(0, 1) ? 10 : 3000);
  Tensor logits(dtype, {rows, vocab});
  logits.fill_normal(static_cast<double>(pick(0, 8)));
  Tensor temperature(DType::f32, {rows}), top_k(DType::i32, {rows}), top_p(DType::f32, {rows});
  Tensor min_p(DType::f32, {rows}), key(DType::i64, {rows}), position(DType::i64, {rows});
  Tensor indptr(DType::i64, {rows + 1}), token_ids(DType::i32, {rows}), bias(DType::f32, {rows});
  Tensor count(DType::i32, {rows}), in_prompt(DType::u8, {rows}), repetition(DType::f32, {rows});
  Tensor presence(DType::f32, {rows}), frequency(DType::f32, {rows});
  const DType sums = dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensor token(DType::i64, {rows}), logprob(sums, {rows}), full(sums, {rows}), mass(sums, {rows});
  Tensor raw(sums, {rows});
  for (std::int64_t r = 0; r < rows; ++r) {
    temperature.as<float>()[r] = pick(0, 3) ? static_cast<float>(pick(1, 30)) / 10 : 0.0f;
    top_k.as<std::int32_t>()[r] = static_cast<std::int32_t>(pick(0, 1) ? 0 : pick(1, vocab + 3));
    top_p.as<float>()[r] = pick(0, 1) ? 1.0f : static_cast<float>(pick(1, 99)) / 100;
    min_p.as<float>()[r] = pick(0, 1) ? 0.0f : static_cast<float>(pick(1, 100)) / 100;
    key.as<std::int64_t>()[r] = static_cast<std::int64_t>(generator());
    position.as<std::int64_t>()[r] = pick(0, 1 << 20);
    indptr.as<std::int64_t>()[r + 1] = r + 1;
    token_ids.as<std::int32_t>()[r] = static_cast<std::int32_t>(pick(0, vocab - 1));
    bias.as<float>()[r] = vocab > 1 && pick(0, 2) == 0 ? -INFINITY : static_cast<float>(normal());
    count.as<std::int32_t>()[r] = static_cast<std::int32_t>(pick(0, 3));
    repetition.as<float>()[r] = 1.3f;
    frequency.as<float>()[r] = 0.2f;
  }
  const fastsi::LogitAdjust adjust{indptr.view,    token_ids.view,  bias.view,     count.view,
                                   in_prompt.view, repetition.view, presence.view, frequency.view};
  const bool adjusted = pick(0, 1) == 1, with_raw = pick(0, 1) == 1;
  fastsi::sample_tokens(
      logits.view, {temperature.view, top_k.view, top_p.view, min_p.view, key.view, position.view},
      nullptr, adjusted ? &adjust : nullptr,
      {token.view, logprob.view, full.view, mass.view, with_raw ? &raw.view : nullptr}, 2);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t drawn = token.as<std::int64_t>()[r];
    require(0 <= drawn && drawn < vocab, "sample: token");
    require(logprob.get(r) >= full.get(r) - 1e-6 && logprob.get(r) < 1e-5, "sample: logprob");
    require(mass.get(r) > 0 && mass.get(r) < 1 + 1e-6, "sample: kept mass");
    require(std::abs(std::exp(full.get(r) - logprob.get(r)) - mass.get(r)) < 1e-4, "sample: mass");
    const bool banned = adjusted && bias.as<float>()[r] == -INFINITY;
    const float t = temperature.as<float>()[r];
    require(!with_raw || raw.get(r) < 1e-5, "sample: raw log-prob");
    require(!with_raw || adjusted || (t != 0 && t != 1) || raw.get(r) == full.get(r),
            "sample: raw log-prob of a draw at temperature 1");
    require(!banned || drawn != token_ids.as<std::int32_t>()[r], "sample: a banned token");
  }
}

// Some logits equal, some -inf; broken calls must throw.
void fuzz_top() {
  const DType dtype = random_float();
  const std::int64_t sources = pick(1, 4), vocab = pick(1, pick(0, 1) ? 10 : 3000);
  const std::int64_t rows = pick(0, 5), count = pick(0, pick(0, 1) ? vocab : vocab < 5 ? vocab : 5);
  const DType sums = dtype == DType::f64 ? DType::f64 : DType::f32;
  Tensor logits(dtype, {sources, vocab}), tokens(DType::i64, {rows}), index(DType::i64, {rows});
  Tensor ids(DType::i64, {rows, count}), logprobs(sums, {rows, count}), rank(DType::i64, {rows});
  logits.fill_normal(static_cast<double>(pick(0, 3)));
  for (std::int64_t i = 0; i < sources * vocab; ++i) {
    if (pick(0, 9) == 0 && i % vocab > 0) logits.set(i, pick(0, 1) ? -INFINITY : 1.0);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    tokens.as<std::int64_t>()[r] = pick(-1, vocab - 1);
    index.as<std::int64_t>()[r] = pick(0, sources - 1);
  }
  const bool broken = rows > 0 && pick(0, 9) == 0;
  if (broken && pick(0, 1)) {
    tokens.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? vocab : -2;
  } else if (broken) {
    index.as<std::int64_t>()[pick(0, rows - 1)] = pick(0, 1) ? sources : -1;
  }
  try {
    fastsi::top_logprobs(logits.view, tokens.view, &index.view,
                         {ids.view, logprobs.view, rank.view}, static_cast<int>(pick(1, 3)));
    require(!broken, "top: a bad index was accepted");
  } catch (const std::invalid_argument&) {
    require(broken, "top: good indices were refused");
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t first = index.as<std::int64_t>()[r] * vocab;
    std::vector<std::int64_t> order(static_cast<std::size_t>(vocab));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return logits.get(first + a) > logits.get(first + b);
    });
    double sum = 0;
    for (const std::int64_t i : order) sum += std::exp(logits.get(first + i));
    for (std::int64_t i = 0; i < count; ++i) {
      require(ids.as<std::int64_t>()[r * count + i] == order[i], "top: token");
      const double want = logits.get(first + order[i]) - std::log(sum);
      const double got = logprobs.get(r * count + i);
      require(got == want || std::abs(got - want) < tolerance(sums), "top: log-prob");
    }
    const std::int64_t token = tokens.as<std::int64_t>()[r];
    const auto larger = std::count_if(order.begin(), order.end(), [&](std::int64_t i) {
      return token >= 0 && logits.get(first + i) > logits.get(first + token);
    });
    require(rank.as<std::int64_t>()[r] == (token < 0 ? 0 : larger + 1), "top: rank");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) die("usage: fastsi_fuzz_ops SEED ROUNDS");
  const auto seed = std::stoull(argv[1]);
  generator.seed(seed);
  // Odd seeds on threads of our own, even ones on those of OpenMP where it is there.
  if (seed % 2 == 0) dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL);
  const long rounds = std::stol(argv[2]);
  for (auto isa : fastsi::kIsas) {
    if (!fastsi::isa_available(isa)) continue;
    fastsi::set_isa(fastsi::name_of(isa));
    for (long i = 0; i < rounds; ++i) {
      fuzz_attention();
      fuzz_bad_plan();
      fuzz_merge();
      fuzz_kv_write();
      fuzz_sample();
      fuzz_top();
      fuzz::norm_and_act();
      fuzz::rope();
      fuzz::linear();
      fuzz::linear_int8();
      fuzz::kv_write_int8();
      fuzz::attention_int8();
      fuzz::decoder();
      fuzz::decode_steps();
      fuzz::match_stop();
      fuzz::advance_rows();
      fuzz::loops();
    }
    std::printf("%s: %ld rounds, threads: %s\n", fastsi::name_of(isa), rounds,
                fastsi::thread_pool_name());
  }
}
