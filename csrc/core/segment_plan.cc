#include <algorithm>
#include <utility>

#include "fastsi/ops.h"

namespace fastsi {
namespace {

std::vector<std::int32_t> copy_i32(const char* name, const TensorView& view, std::int64_t size) {
  const auto* data = vector_of<std::int32_t>(name, view, DType::i32, size);
  return {data, data + size};
}

}  // namespace

SegmentPlan::SegmentPlan(const TensorView& page_indptr, const TensorView& page_ids,
                         const TensorView& page_offset, const TensorView& kv_len,
                         const TensorView& kv_start, const TensorView& row_begin,
                         const TensorView& row_end, const TensorView& causal,
                         const TensorView& per_path, const TensorView& row_pos,
                         std::int64_t page_size)
    : pages_(copy_i32("plan.page_ids", page_ids, page_ids.shape[0])),
      row_pos_(copy_i32("plan.row_pos", row_pos, row_pos.shape[0])),
      page_size_(page_size) {
  const std::int64_t count = kv_len.shape[0];
  const auto rows = static_cast<std::int64_t>(row_pos_.size());
  const auto indptr = copy_i32("plan.page_indptr", page_indptr, count + 1);
  const auto offset = copy_i32("plan.page_offset", page_offset, count);
  const auto length = copy_i32("plan.kv_len", kv_len, count);
  const auto start = copy_i32("plan.kv_start", kv_start, count);
  const auto begin = copy_i32("plan.row_begin", row_begin, count);
  const auto end = copy_i32("plan.row_end", row_end, count);
  const auto flag = copy_i32("plan.causal", causal, count);
  const auto own = copy_i32("plan.per_path", per_path, count);
  FASTSI_CHECK(page_size > 0, "page_size: is ", page_size, ", must be > 0");
  FASTSI_CHECK(indptr[0] == 0 && indptr[count] == static_cast<std::int64_t>(pages_.size()),
               "plan.page_indptr: must run from 0 to ", pages_.size(), ", runs from ", indptr[0],
               " to ", indptr[count]);
  segments_.reserve(static_cast<std::size_t>(count));
  for (std::int64_t s = 0; s < count; ++s) {
    FASTSI_CHECK(indptr[s] <= indptr[s + 1], "plan.page_indptr: decreases at segment ", s);
    const std::int64_t slots = (indptr[s + 1] - indptr[s]) * page_size;
    FASTSI_CHECK(offset[s] >= 0 && (offset[s] < page_size), "plan.page_offset[", s, "]: is ",
                 offset[s], ", must be in 0..", page_size - 1);
    FASTSI_CHECK(length[s] >= 0 && (length[s] == 0 || offset[s] + length[s] <= slots),
                 "plan.kv_len[", s, "]: is ", length[s], ", its pages hold ", slots - offset[s]);
    FASTSI_CHECK(0 <= begin[s] && begin[s] <= end[s] && end[s] <= rows, "plan: segment ", s,
                 " has rows ", begin[s], "..", end[s], ", must lie in 0..", rows);
    segments_.push_back({indptr[s], indptr[s + 1] - indptr[s], offset[s], length[s], start[s],
                         begin[s], end[s], flag[s] != 0, own[s] != 0});
    pairs_ += static_cast<double>(length[s]) * (end[s] - begin[s]);
  }
  for (std::int32_t page : pages_) {
    FASTSI_CHECK(page >= 0, "plan.page_ids: holds ", page, ", must be >= 0");
    num_pages_needed_ = std::max<std::int64_t>(num_pages_needed_, page + std::int64_t{1});
  }
}

void SegmentPlan::append_token(std::int64_t* slots) {
  const std::size_t rows = row_pos_.size();
  FASTSI_CHECK(segments_.size() >= rows, "plan: has ", segments_.size(), " segments for ", rows,
               " rows that go on");
  const std::size_t first = segments_.size() - rows;
  for (std::size_t r = 0; r < rows; ++r) {
    const Segment& segment = segments_[first + r];
    const bool own = segment.row_begin == static_cast<std::int64_t>(r) &&
                     segment.row_end == segment.row_begin + 1 && !segment.causal &&
                     segment.kv_len > 0;  // empty ones are in no block
    FASTSI_CHECK(own, "plan: segment ", first + r, " is not that of row ", r, " alone");
    const std::int64_t at = segment.page_offset + segment.kv_len;
    FASTSI_CHECK(at < segment.num_pages * page_size_, "plan: segment ", first + r, " has ",
                 segment.num_pages, " pages, which are full");
  }
  for (std::size_t r = 0; r < rows; ++r) {
    Segment& segment = segments_[first + r];
    const std::int64_t at = segment.page_offset + segment.kv_len++;
    slots[r] = pages_[segment.first_page + at / page_size_] * page_size_ + at % page_size_;
    ++row_pos_[r];
  }
  pairs_ += static_cast<double>(rows);
}

std::shared_ptr<const SegmentPlan::Blocks> SegmentPlan::blocks(std::int64_t rows) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& known : blocks_) {
    if (known != nullptr && known->rows == rows) return known;
  }
  const std::size_t count = (row_pos_.size() + rows - 1) / rows;
  auto made = std::make_shared<Blocks>();
  made->rows = rows;
  made->begin.assign(count + 1, 0);
  // Two passes, counting then filling, keep the segments of a block in plan order.
  const auto each = [&](auto&& visit) {
    for (std::size_t s = 0; s < segments_.size(); ++s) {
      const Segment& segment = segments_[s];
      if (segment.kv_len == 0 || segment.row_begin == segment.row_end) continue;
      const std::int64_t last = (segment.row_end - 1) / rows;
      for (std::int64_t b = segment.row_begin / rows; b <= last; ++b) visit(b, s);
    }
  };
  each([&](std::int64_t b, std::size_t) { ++made->begin[b + 1]; });
  for (std::size_t b = 0; b < count; ++b) made->begin[b + 1] += made->begin[b];
  made->segments.resize(made->begin[count]);
  std::vector<std::int32_t> at(made->begin.begin(), made->begin.end() - 1);
  each([&](std::int64_t b, std::size_t s) {
    made->segments[at[b]++] = static_cast<std::int32_t>(s);
  });
  blocks_[1] = std::exchange(blocks_[0], made);
  return made;
}

}  // namespace fastsi
