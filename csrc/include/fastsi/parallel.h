// Parallel loops on the OpenMP pool that the process already has (torch's), without linking to it:
// a second OpenMP runtime would start a second set of threads that fights the first for the cores.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsi {

// Elements to touch below which a loop stays on one thread: waking the others takes as long.
inline constexpr double kSerialElements = 32768;
// The same where it may be a loop of a team's leader, whose others are awake.
double serial_elements();

// Work on the indices [begin, end) of a loop.
using LoopBody = void (*)(void* context, std::int64_t begin, std::int64_t end);

// Calls body(context, begin, end) for ranges of at most `most` indices that make up [0, count), on
// up to `threads` threads. Each thread has a part of its own, goes through it in order, and takes
// half of what is left of it at a time; who has nothing left takes half of another's part. So
// neighbours mostly meet the same thread, one after the other, and threads end together.
// Runs serially when nested inside another parallel region. After a fork, the child uses threads of
// its own, because the parent's pool does not survive. Rethrows the first exception of a body;
// std::length_error for a count of 2^32 or more.
void parallel_ranges(std::int64_t count, std::int64_t most, int threads, LoopBody body,
                     void* context);

template <class Body>
void parallel_ranges(std::int64_t count, std::int64_t most, int threads, Body&& body) {
  parallel_ranges(
      count, most, threads,
      [](void* context, std::int64_t begin, std::int64_t end) {
        (*static_cast<Body*>(context))(begin, end);
      },
      &body);
}

// The same, one index at a time from a counter that all threads share: begun in order, ended in
// any. For work whose items differ in cost, the dear ones first.
void parallel_for(std::int64_t count, int threads, LoopBody body, void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body&& body) {
  parallel_for(
      count, threads,
      [](void* context, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) (*static_cast<Body*>(context))(i);
      },
      &body);
}

// Calls body(context) on this thread while up to threads - 1 others wait for its loops, spinning:
// where many short loops follow each other, starting each of them and gathering the threads again
// costs more. Inside, loops use the team whatever number of threads it is given, above 1.
// Without OpenMP, or with more threads than cores, body just runs, and loops start as ever.
// Rethrows an exception of body.
void with_team(int threads, void (*body)(void*), void* context);

template <class Body>
void with_team(int threads, Body&& body) {
  with_team(threads, [](void* context) { (*static_cast<Body*>(context))(); }, &body);
}

// "openmp" where the process' OpenMP runtime was found, "std" for the own pool. Settled at the
// first use.
const char* thread_pool_name();

// At least `bytes` of 64-byte aligned memory of the calling thread; valid until its next call with
// the same slot. Slot 0 is for the bodies of parallel loops, slot 1 for what surrounds a loop and
// all its bodies read.
void* thread_scratch(std::size_t bytes, int slot = 0);

}  // namespace fastsi
