// Just enough of CUDA to run a kernel of warps on threads: one thread per lane, a barrier per warp.
// For tests of what a kernel computes where there is no GPU; blocks run one after the other.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)

namespace emulated {

constexpr int kLanes = 32;

struct Index {
  unsigned x = 0;
};

struct Warp {
  int values[kLanes] = {};
  pthread_barrier_t barrier;
  Warp() { pthread_barrier_init(&barrier, nullptr, kLanes); }
  ~Warp() { pthread_barrier_destroy(&barrier); }
  void wait() { pthread_barrier_wait(&barrier); }
};

inline thread_local Warp* warp = nullptr;

}  // namespace emulated

inline thread_local emulated::Index threadIdx, blockIdx;
inline emulated::Index gridDim;

namespace emulated {

// Every lane gives a value, then every lane reads all of them.
template <class Read>
int exchange(int value, Read read) {
  warp->values[threadIdx.x % kLanes] = value;
  warp->wait();
  const int found = read(warp->values);
  warp->wait();
  return found;
}

template <class Kernel>
void launch(int blocks, int warps, Kernel kernel) {
  gridDim.x = static_cast<unsigned>(blocks);
  for (int block = 0; block < blocks; ++block) {
    std::vector<Warp> all(static_cast<std::size_t>(warps));
    std::vector<std::thread> lanes;
    for (int i = 0; i < warps * kLanes; ++i) {
      lanes.emplace_back([&, block, i] {
        threadIdx.x = static_cast<unsigned>(i);
        blockIdx.x = static_cast<unsigned>(block);
        warp = &all[static_cast<std::size_t>(i / kLanes)];
        kernel();
      });
    }
    for (std::thread& lane : lanes) lane.join();
  }
}

}  // namespace emulated

inline int __reduce_max_sync(unsigned, int value) {
  return emulated::exchange(
      value, [](const int* all) { return *std::max_element(all, all + emulated::kLanes); });
}
inline int __reduce_min_sync(unsigned, int value) {
  return emulated::exchange(
      value, [](const int* all) { return *std::min_element(all, all + emulated::kLanes); });
}
inline int __shfl_sync(unsigned, int value, int from) {
  return emulated::exchange(value, [=](const int* all) { return all[from]; });
}
inline int __shfl_up_sync(unsigned, int value, int step) {
  const int lane = static_cast<int>(threadIdx.x) % emulated::kLanes;
  return emulated::exchange(value, [=](const int* all) { return all[std::max(lane - step, 0)]; });
}
inline bool __any_sync(unsigned, bool value) { return __reduce_max_sync(0, value ? 1 : 0) != 0; }
inline void __syncwarp() { emulated::warp->wait(); }
inline void atomicMin(long long* least, long long value) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  *least = std::min(*least, value);
}
