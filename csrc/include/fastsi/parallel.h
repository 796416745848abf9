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

using LoopBody = void (*)(void* context, std::int64_t index);

// Calls body(context, i) for every i in [0, count), on up to `threads` threads, in any order.
// Runs serially when nested inside another parallel region. After a fork, the child uses threads of
// its own, because the parent's pool does not survive. Rethrows the first exception of a body.
void parallel_for(std::int64_t count, int threads, LoopBody body, void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body&& body) {
  parallel_for(
      count, threads,
      [](void* context, std::int64_t index) { (*static_cast<Body*>(context))(index); }, &body);
}

// Calls body(context) on this thread while up to threads - 1 others wait for its loops, spinning:
// where many short loops follow each other, starting each of them and gathering the threads again
// costs more. Inside, parallel_for uses the team whatever number of threads it is given, above 1.
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
