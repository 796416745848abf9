// The kernel of match_stop.cu, apart from its launch, so that csrc/tests can run it on threads.
//
// A warp joins the end of a text and the bytes of its new token in a buffer of its own; its first
// lane looks for what ends the text, with the rules of match_stop_rules.h, which the host has too.
#pragma once

#include <cstdint>

#include "fastsi/match_stop_rules.h"

namespace fastsi::cuda {
namespace {

constexpr int kStopLanes = 32;
constexpr int kStopWarps = 4;
constexpr std::uint8_t kSpecialToken = 1;  // flag of fastsi.ops.TokenBytes

struct StopTable {
  const char* data;
  const std::int64_t* offsets;
  const std::uint8_t* flags;
  std::int64_t size;
};

// Fields as in fastsi::StopRules and fastsi::StopState.
struct StopClasses {
  const std::int64_t* class_indptr;
  const std::int64_t* string_indptr;
  const char* bytes;
  const std::uint8_t* answers;
  const std::uint8_t* special;
  std::int64_t count;
};

struct StopTexts {
  const std::int32_t* rule;
  char* tail;
  std::int32_t* length;
  std::uint8_t* thinking;
  std::int64_t slots;
  int width;
};

// Row r: appends tokens[r] to the text of slots[r]. A row of `scratch` holds `width` bytes and
// those of the longest token.
// Eight blocks on a multiprocessor: without a number ptxas saves registers that nobody needs.
__global__ __launch_bounds__(kStopLanes* kStopWarps, 8) void find_stops(
    const std::int64_t* tokens, const std::int64_t* slots, std::int64_t rows, StopTable table,
    StopClasses classes, StopTexts texts, char* scratch, int capacity, std::uint8_t* hit) {
  const int lane = static_cast<int>(threadIdx.x) % kStopLanes;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kStopWarps +
                           static_cast<std::int64_t>(threadIdx.x) / kStopLanes;
  if (row >= rows) return;
  if (lane == 0) hit[row] = 0;
  const std::int64_t slot = slots[row], token = tokens[row];
  if (slot < 0 || slot >= texts.slots || token < 0 || token >= table.size) return;
  const std::int64_t which = texts.rule[slot];
  if (which < 0 || which >= classes.count) return;
  if ((table.flags[token] & kSpecialToken) != 0 && classes.special[which] == 0) return;

  const std::int64_t begin = table.offsets[token];
  const int more = static_cast<int>(table.offsets[token + 1] - begin);
  const int had = texts.length[slot];
  const int size = had + more;
  if (size > capacity) {  // the caller's buffer is for another table: let the host look
    if (lane == 0) hit[row] = 1;
    return;
  }
  char* text = scratch + row * capacity;
  char* tail = texts.tail + slot * texts.width;
  for (int i = lane; i < had; i += kStopLanes) text[i] = tail[i];
  for (int i = lane; i < more; i += kStopLanes) text[had + i] = table.data[begin + i];
  __syncwarp();
  const int keep = size < texts.width ? size : texts.width;
  for (int i = lane; i < keep; i += kStopLanes) tail[i] = text[size - keep + i];
  if (lane != 0) return;

  const stop::Text whole(text, static_cast<std::size_t>(size));
  const auto from = static_cast<std::size_t>(had);
  bool found = stop::completes(whole, from, classes.bytes, classes.string_indptr,
                               classes.class_indptr[which], classes.class_indptr[which + 1]);
  bool thinks = texts.thinking[slot] != 0;
  if (classes.answers[which] != 0 && stop::scan(whole, from, 0, &thinks) >= 0) found = true;
  hit[row] = found ? 1 : 0;
  texts.thinking[slot] = thinks ? 1 : 0;
  texts.length[slot] = keep;
}

}  // namespace
}  // namespace fastsi::cuda
