#include "fastsi/parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#if defined(__linux__)
#include <link.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "parallel_loop.h"

namespace fastsi {
namespace {

void pause_a_little(int turn) {
  constexpr int kSpins = 20000;  // some hundred microseconds
  if (turn > kSpins) std::this_thread::yield();
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Threads of one parallel region that wait for the loops of its leader.
class Team {
 public:
  Team(pthread_t leader, int threads) : leader_(leader), threads_(threads) {}

  int threads() const { return threads_; }

  bool led_by_this_thread() const { return pthread_equal(leader_, pthread_self()) != 0; }

  // By the leader. Whoever comes late helps less; the leader alone would finish too.
  void run(Loop& loop) {
    loop_ = &loop;
    ++state_;  // odd: there is a loop
    loop.run(0);
    ++state_;
    for (int turn = 0; helping_ != 0; ++turn) pause_a_little(turn);
  }

  // By the others, until the leader says `end`.
  void help() {
    const int thread = ++joined_;  // the same in every loop, as then are the caches of its part
    std::uint64_t seen = 0;
    for (int turn = 0; !ended_; ++turn) {
      const std::uint64_t state = state_;
      if (state % 2 == 0 || state == seen) {
        pause_a_little(turn);
        continue;
      }
      // Either this is seen by the leader, who then waits, or the leader's next state is seen here.
      ++helping_;
      if (state_ == state) loop_->run(thread);
      --helping_;
      seen = state;
      turn = 0;
    }
  }

  void end() { ended_ = true; }

 private:
  const pthread_t leader_;
  const int threads_;
  std::atomic<int> joined_{0};
  Loop* loop_ = nullptr;  // written while nobody helps
  // Apart from what the leader's stack holds beside them.
  alignas(64) std::atomic<std::uint64_t> state_{0};
  std::atomic<int> helping_{0};
  std::atomic<bool> ended_{false};
};

thread_local Team* own_team = nullptr;  // of the leader, between its loops

// Threads of our own, for processes without an OpenMP runtime and for children of a fork.
class Pool {
 public:
  void run(Loop& loop, int threads) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) {  // another thread's loop holds the pool
      loop.run();
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(threads - 1);
      loop_ = &loop;
      wanted_ = running_ = std::min(threads - 1, workers_);
      ++generation_;
    }
    start_.notify_all();
    loop.run();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
    loop_ = nullptr;
  }

 private:
  void work(int id);

  void grow(int wanted) {
    try {
      for (; workers_ < wanted; ++workers_)
        std::thread([this, id = workers_] { work(id); }).detach();
    } catch (const std::system_error&) {
      // Out of threads: the loop runs on those there are.
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable start_, done_;
  Loop* loop_ = nullptr;
  int workers_ = 0, wanted_ = 0, running_ = 0;
  std::uint64_t generation_ = 0;
};

thread_local bool inside_own_pool = false;
std::atomic<bool> forked{false};
// Never destroyed: workers are detached and may outlive static destructors.
std::atomic<Pool*> own_pool{nullptr};

// The child of a fork has none of its parent's pool threads, and an OpenMP runtime that was used
// before the fork would wait for them forever. Registered when the library is loaded, because torch
// may have used the runtime before this library's first loop.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] {
  forked.store(true);
  own_pool.store(nullptr);  // leaked: its threads and locks did not survive either
});

void Pool::work(int id) {
  inside_own_pool = true;
  std::uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    start_.wait(lock, [&] { return generation_ != seen; });
    seen = generation_;
    if (id >= wanted_) continue;
    Loop* loop = loop_;
    lock.unlock();
    loop->run();
    lock.lock();
    if (--running_ == 0) done_.notify_one();
  }
}

Pool& pool() {
  Pool* found = own_pool.load();
  if (found == nullptr) {
    Pool* made = new Pool;
    if (own_pool.compare_exchange_strong(found, made)) return *made;
    delete made;
  }
  return *found;
}

struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*in_parallel)() = nullptr;

  bool usable() const { return parallel != nullptr && in_parallel != nullptr; }

  void resolve(void* library) {
    parallel = reinterpret_cast<decltype(parallel)>(dlsym(library, "GOMP_parallel"));
    in_parallel = reinterpret_cast<decltype(in_parallel)>(dlsym(library, "omp_in_parallel"));
  }
};

#if defined(__linux__)
// Looks for a runtime that is loaded but not visible to RTLD_DEFAULT.
int try_library(dl_phdr_info* info, std::size_t, void* result) {
  const char* path = info->dlpi_name;
  if (path == nullptr || (!std::strstr(path, "libgomp") && !std::strstr(path, "libomp") &&
                          !std::strstr(path, "libiomp"))) {
    return 0;
  }
  void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return 0;
  auto* found = static_cast<OpenMp*>(result);
  found->resolve(library);
  return found->usable() ? 1 : 0;
}
#endif

const OpenMp& openmp() {
  static const OpenMp runtime = [] {
    OpenMp found;
    found.resolve(RTLD_DEFAULT);
#if defined(__linux__)
    if (!found.usable()) dl_iterate_phdr(try_library, &found);
#endif
    return found;
  }();
  return runtime;
}

struct Scratch {
  void* data = nullptr;
  std::size_t bytes = 0;
  ~Scratch() { std::free(data); }
};

// A part for each of `threads` threads, of the calling thread; valid until its next loop. A loop
// inside another one's body runs serially and has none.
Part* thread_parts(int threads) {
  thread_local std::unique_ptr<Part[]> parts;
  thread_local int size = 0;
  if (size < threads) {
    parts.reset(new Part[threads]);
    size = threads;
  }
  return parts.get();
}

void run_loop(std::int64_t count, std::int64_t most, bool shared, int threads, LoopBody body,
              void* context) {
  if (count > std::numeric_limits<std::uint32_t>::max()) {
    throw std::length_error("parallel loop of " + std::to_string(count) + " indices");
  }
  const OpenMp& runtime = openmp();
  const bool usable = runtime.usable() && !forked.load(std::memory_order_relaxed);
  const bool nested = own_team == nullptr && (inside_own_pool || (usable && runtime.in_parallel()));
  if (threads <= 1 || count <= 1 || nested) {
    const std::int64_t step = shared ? count : most;
    for (std::int64_t i = 0; i < count; i += step) body(context, i, std::min(i + step, count));
    return;
  }
  if (own_team != nullptr) threads = own_team->threads();
  const int num_parts = shared ? 1 : threads;
  Part* parts = thread_parts(num_parts);
  for (std::int64_t i = 0; i < num_parts; ++i) {
    parts[i].set({static_cast<std::uint32_t>(count * i / num_parts),
                  static_cast<std::uint32_t>(count * (i + 1) / num_parts)});
  }
  Loop loop{body, context, static_cast<std::uint32_t>(std::min(most, count)), parts, num_parts};
  if (own_team != nullptr) {
    Team* const led = own_team;
    own_team = nullptr;  // a body that loops again runs serially
    led->run(loop);
    own_team = led;
  } else if (usable) {
    // Always the caller's full thread count: a smaller team would make the runtime end threads
    // that torch's next loop starts again.
    runtime.parallel([](void* data) { static_cast<Loop*>(data)->run(); }, &loop,
                     static_cast<unsigned>(threads), 0);
  } else {
    inside_own_pool = true;  // a body that loops again runs serially
    pool().run(loop, threads);
    inside_own_pool = false;
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace

double serial_elements() { return own_team == nullptr ? kSerialElements : kSerialElements / 4; }

void with_team(int threads, void (*body)(void*), void* context) {
  const OpenMp& runtime = openmp();
  // More threads than cores would spin on the core that another one needs.
  static const auto cores = static_cast<int>(std::thread::hardware_concurrency());  // 0: unknown
  if (threads <= 1 || (cores > 0 && threads > cores) || !runtime.usable() ||
      forked.load(std::memory_order_relaxed) || inside_own_pool || runtime.in_parallel()) {
    body(context);
    return;
  }
  struct Region {
    Team team;
    void (*body)(void*);
    void* context;
    std::exception_ptr error;

    void lead() noexcept {
      own_team = &team;
      try {
        body(context);
      } catch (...) {
        error = std::current_exception();
      }
      own_team = nullptr;
      team.end();
    }
  } region{Team(pthread_self(), threads), body, context, nullptr};
  const auto enter = [](void* data) {
    auto* entered = static_cast<Region*>(data);
    if (entered->team.led_by_this_thread()) {
      entered->lead();
    } else {
      entered->team.help();
    }
  };
  runtime.parallel(enter, &region, static_cast<unsigned>(threads), 0);
  if (region.error) std::rethrow_exception(region.error);
}

void parallel_for(std::int64_t count, int threads, LoopBody body, void* context) {
  run_loop(count, 1, true, threads, body, context);
}

void parallel_ranges(std::int64_t count, std::int64_t most, int threads, LoopBody body,
                     void* context) {
  run_loop(count, most, false, threads, body, context);
}

const char* thread_pool_name() { return openmp().usable() && !forked.load() ? "openmp" : "std"; }

void* thread_scratch(std::size_t bytes, int slot) {
  thread_local Scratch slots[2];
  Scratch& scratch = slots[slot];
  if (scratch.bytes < bytes) {
    constexpr std::size_t kAlign = 64;
    std::free(scratch.data);
    scratch.bytes = 0;
    const std::size_t rounded = (bytes + bytes / 2 + kAlign - 1) / kAlign * kAlign;
    scratch.data = std::aligned_alloc(kAlign, rounded);
    if (scratch.data == nullptr) throw std::bad_alloc();
    scratch.bytes = rounded;
  }
  return scratch.data;
}

}  // namespace fastsi
