// One parallel loop: what is left of its indices, and how its threads take them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "fastsi/parallel.h"

namespace fastsi {

struct Range {
  std::uint32_t begin, end;
};

// Indices that are still to be taken. Both ends are one word, so that who takes some of them takes
// what nobody else does; no range comes back once it was shortened.
class alignas(64) Part {
 public:
  void set(Range range) { ends_.store(word_of(range), std::memory_order_relaxed); }

  // Half of what is left, at least one and at most `most`, from the front; false where it is empty.
  bool take_front(std::uint32_t most, Range* taken) {
    return take([&](Range left) {
      const std::uint32_t half = (left.end - left.begin + 1) / 2;
      *taken = {left.begin, left.begin + std::min(half, most)};
      return Range{taken->end, left.end};
    });
  }
  // Half of what is left, at least one, from the back.
  bool take_back(Range* taken) {
    return take([&](Range left) {
      *taken = {left.begin + (left.end - left.begin) / 2, left.end};
      return Range{left.begin, taken->begin};
    });
  }

 private:
  static std::uint64_t word_of(Range range) { return std::uint64_t{range.begin} << 32 | range.end; }

  template <class Split>
  bool take(const Split& split) {
    std::uint64_t ends = ends_.load(std::memory_order_relaxed);
    for (;;) {
      const Range left{static_cast<std::uint32_t>(ends >> 32), static_cast<std::uint32_t>(ends)};
      if (left.begin >= left.end) return false;
      if (ends_.compare_exchange_weak(ends, word_of(split(left)), std::memory_order_relaxed)) {
        return true;
      }
    }
  }

  std::atomic<std::uint64_t> ends_;
};

// One loop, whose indices lie in one part that all threads share, or in one for each thread.
struct Loop {
  LoopBody body;
  void* context;
  std::uint32_t most;  // indices that a thread takes at once
  Part* parts;
  int num_parts;
  std::atomic<int> entered{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error{};  // written by the thread that set `failed`

  // By each of its threads: numbered from 0, or as they come.
  void run() noexcept { run(entered.fetch_add(1, std::memory_order_relaxed)); }
  void run(int thread) noexcept {
    Range range{};
    while (take(num_parts == 1 ? 0 : thread, &range)) {
      try {
        body(context, range.begin, range.end);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
      if (failed.load(std::memory_order_relaxed)) return;
    }
  }

 private:
  bool take(int own, Range* taken) {
    if (parts[own].take_front(most, taken)) return true;
    for (int other = own + 1; other < own + num_parts; ++other) {
      Range stolen{};
      if (!parts[other % num_parts].take_back(&stolen)) continue;
      parts[own].set(stolen);  // others may have taken it again by the next line
      if (parts[own].take_front(most, taken)) return true;
    }
    return false;
  }
};

}  // namespace fastsi
