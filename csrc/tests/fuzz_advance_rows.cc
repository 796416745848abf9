// Random calls of advance_rows, broken ones among them; see fuzz_ops.cc.
#include "fuzz.h"

namespace fuzz {
namespace {

Tensor longs(std::int64_t count, std::int64_t low, std::int64_t high) {
  Tensor made(DType::i64, {count});
  for (std::int64_t i = 0; i < count; ++i) made.as<std::int64_t>()[i] = pick(low, high);
  return made;
}

}  // namespace

void advance_rows() {
  const std::int64_t rows = pick(0, 40), segments = pick(0, 20), spans = pick(0, 20);
  const std::int64_t numbers = pick(0, 3), kept = rows + pick(1, 5), step = pick(1, 4);
  Tensor token = longs(rows, -1, 100), slots = longs(rows, 0, kept - 1), last = longs(kept, 0, 9);
  Tensor ids = longs(rows, 0, 9), live = longs(rows + 1, 0, 1);
  Tensor grows = longs(segments + spans, 0, rows);
  Tensor moving(DType::i64, {numbers, rows}), pos(DType::i32, {rows});
  Tensor kv_len(DType::i32, {segments}), records(DType::i32, {spans, step});
  live.as<std::int64_t>()[rows] = 0;
  const bool broken = rows > 0 && segments > 0 && pick(0, 3) == 0;
  if (broken) {
    auto* index = pick(0, 1) ? slots.as<std::int64_t>() + pick(0, rows - 1)
                             : grows.as<std::int64_t>() + pick(0, segments - 1);
    *index = pick(0, 1) ? -1 : kept + rows;
  }
  TensorView ends = records.view;
  ends.dims = 1;
  try {
    fastsi::advance_rows(
        token.view, slots.view, last.view,
        {ids.view, moving.view, pos.view, kv_len.view, ends, live.view, grows.view});
    require(!broken, "advance_rows: a bad index was accepted");
  } catch (const std::invalid_argument&) {
    require(broken, "advance_rows: good indices were refused");
    return;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto moved = static_cast<std::int32_t>(live.as<std::int64_t>()[r]);
    const std::int64_t drawn = std::max<std::int64_t>(token.as<std::int64_t>()[r], 0);
    require(pos.as<std::int32_t>()[r] == moved, "advance_rows: row_pos");
    require(!moved || ids.as<std::int64_t>()[r] == drawn, "advance_rows: ids");
    for (std::int64_t i = 0; i < numbers; ++i) {
      require(moving.as<std::int64_t>()[i * rows + r] == moved, "advance_rows: moving");
    }
  }
  for (std::int64_t i = 0; i < segments + spans; ++i) {
    const std::int64_t grown = live.as<std::int64_t>()[grows.as<std::int64_t>()[i]];
    const std::int32_t found = i < segments ? kv_len.as<std::int32_t>()[i]
                                            : records.as<std::int32_t>()[(i - segments) * step];
    require(found == grown, "advance_rows: lengths");
  }
}

}  // namespace fuzz
