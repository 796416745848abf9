#include <algorithm>

#include "fastsi/parallel.h"
#include "kernels.h"

namespace fastsi {
namespace {

// Query vectors (rows times heads per key/value head) of a work item: enough to pay for packing a
// tile of keys, few enough to stay in the second-level cache.
constexpr std::int64_t kQueriesPerBlock = 384;
constexpr std::int64_t kFewestRows = 8;
constexpr std::int64_t kItemsPerThread = 3;
constexpr double kSerialWork = 2e5;  // multiply-adds below which waking threads costs more

void check(const TensorView& q, const KvCache& cache, const SegmentPlan& plan,
           const TensorView& out, const TensorView& lse) {
  FASTSI_CHECK(is_float(q.dtype), "q: is ", name_of(q.dtype), ", must be a floating type");
  require_dims("q", q, 3);
  require_dense_last("q", q);
  require_size("q", q, 0, static_cast<std::int64_t>(plan.row_pos().size()));
  const TensorView& k_cache = cache.k;
  require_dims("k_cache", k_cache, 4);
  check_cache(cache, q.dtype, k_cache.shape[1], q.shape[2]);
  require_size("k_cache", k_cache, 2, plan.page_size());
  FASTSI_CHECK(k_cache.shape[1] > 0 && q.shape[1] % k_cache.shape[1] == 0, "q: ", q.shape[1],
               " heads, must be a multiple of the ", k_cache.shape[1], " heads of k_cache");
  FASTSI_CHECK(plan.num_pages_needed() <= k_cache.shape[0], "plan.page_ids: holds page ",
               plan.num_pages_needed() - 1, ", k_cache has ", k_cache.shape[0]);
  require_dims("out", out, 3);
  require_dims("lse", lse, 2);
  require_dtype("out", out, q.dtype);
  require_dtype("lse", lse, q.dtype == DType::f64 ? DType::f64 : DType::f32);
  require_contiguous("out", out);
  require_contiguous("lse", lse);
  for (int i = 0; i < 3; ++i) require_size("out", out, i, q.shape[i]);
  for (int i = 0; i < 2; ++i) require_size("lse", lse, i, q.shape[i]);
}

// Work items: all rows for each of the first heads, blocks of rows for each of the others.
struct Cut {
  std::int64_t whole_heads, block_rows;
};

// Any cut gives the same bits; this one balances reuse of key tiles against idle threads.
Cut cut_heads(std::int64_t rows, std::int64_t group, std::int64_t heads, int threads) {
  const std::int64_t most = std::max<std::int64_t>(1, kQueriesPerBlock / group);
  std::int64_t block = most;
  while (block > kFewestRows && (rows + block - 1) / block * heads < kItemsPerThread * threads) {
    block /= 2;
  }
  // As many heads for each thread keep them equally busy uncut.
  return {block < rows && rows <= most ? heads / threads * threads : 0, block};
}

}  // namespace

void segment_attention(const TensorView& q, const KvCache& cache, const SegmentPlan& plan,
                       const AttentionOptions& options, const TensorView& out,
                       const TensorView& lse, int threads) {
  check(q, cache, plan, out, lse);
  const auto scale = [](const TensorView* view) {
    return view == nullptr ? nullptr : static_cast<const float*>(view->data);
  };
  FASTSI_CHECK(options.window >= 0, "window: is ", options.window, ", must be >= 0");
  const std::int64_t rows = q.shape[0], heads = cache.k.shape[1];
  if (rows == 0) return;
  const AttentionTask task{q.dtype,
                           cache.k.dtype,
                           q.data,
                           cache.k.data,
                           cache.v.data,
                           scale(cache.k_scale),
                           scale(cache.v_scale),
                           out.data,
                           lse.data,
                           q.stride[0],
                           q.stride[1],
                           q.shape[1],
                           heads,
                           q.shape[2],
                           plan.page_size(),
                           plan.segments().data(),
                           plan.pages().data(),
                           plan.row_pos().data(),
                           options};
  const std::int64_t group = q.shape[1] / heads;
  if (plan.pairs() * static_cast<double>(q.shape[1] * q.shape[2]) < kSerialWork) threads = 1;
  const Cut cut = cut_heads(rows, group, heads, threads);
  const auto blocks = plan.blocks(cut.block_rows);
  const auto whole = cut.whole_heads > 0 ? plan.blocks(rows) : blocks;
  const std::int64_t count = (rows + cut.block_rows - 1) / cut.block_rows;
  const Kernels& kernel = kernels();
  const std::size_t scratch =
      kernel.attention_scratch(task, cut.whole_heads > 0 ? rows : cut.block_rows);
  parallel_for(cut.whole_heads + count * (heads - cut.whole_heads), threads, [&](std::int64_t i) {
    const bool uncut = i < cut.whole_heads;
    const std::int64_t b = uncut ? 0 : (i - cut.whole_heads) % count;
    const std::int64_t head = uncut ? i : cut.whole_heads + (i - cut.whole_heads) / count;
    const std::int64_t size = uncut ? rows : cut.block_rows;
    const SegmentPlan::Blocks& lists = uncut ? *whole : *blocks;
    const AttentionBlock block{b * size, std::min(rows, (b + 1) * size), head,
                               lists.segments.data() + lists.begin[b],
                               lists.begin[b + 1] - lists.begin[b]};
    kernel.attention(task, block, thread_scratch(scratch));
  });
}

}  // namespace fastsi
