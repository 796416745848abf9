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

// Any value gives the same bits; this one balances reuse of key tiles against idle threads.
std::int64_t rows_per_block(std::int64_t rows, std::int64_t group, std::int64_t heads,
                            int threads) {
  std::int64_t block = std::max<std::int64_t>(1, kQueriesPerBlock / group);
  while (block > kFewestRows && (rows + block - 1) / block * heads < kItemsPerThread * threads) {
    block /= 2;
  }
  return block;
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
  const std::int64_t block_rows = rows_per_block(rows, group, heads, threads);
  const auto blocks = plan.blocks(block_rows);
  const std::int64_t count = (rows + block_rows - 1) / block_rows;
  const Kernels& kernel = kernels();
  const std::size_t scratch = kernel.attention_scratch(task, block_rows);
  parallel_for(count * heads, threads, [&](std::int64_t item) {
    const std::int64_t b = item / heads;
    const AttentionBlock block{b * block_rows, std::min(rows, (b + 1) * block_rows), item % heads,
                               blocks->segments.data() + blocks->begin[b],
                               blocks->begin[b + 1] - blocks->begin[b]};
    kernel.attention(task, block, thread_scratch(scratch));
  });
}

}  // namespace fastsi
