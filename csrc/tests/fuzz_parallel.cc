// Parallel loops: every index once, exceptions, loops in bodies, teams.
#include <atomic>
#include <numeric>

#include "fastsi/check.h"
#include "fastsi/parallel.h"
#include "fuzz.h"

namespace {

using fuzz::die;
using fuzz::pick;
using fuzz::require;

// Exceptions leave a parallel loop, and loops nest.
void nested() {
  const std::int64_t count = pick(0, 200);
  std::vector<int> seen(static_cast<std::size_t>(count), 0);
  fastsi::parallel_for(count, 3, [&](std::int64_t i) {
    fastsi::parallel_for(3, 3, [&](std::int64_t j) { seen[i] += static_cast<int>(j); });
  });
  require(std::all_of(seen.begin(), seen.end(), [](int x) { return x == 3; }), "parallel: indices");
  if (count == 0) return;
  const std::int64_t bad = pick(0, count - 1);
  try {
    fastsi::parallel_for(count, 3, [&](std::int64_t i) { FASTSI_CHECK(i != bad, "stop at ", i); });
  } catch (const std::invalid_argument& error) {
    require(error.what() == "stop at " + std::to_string(bad), "parallel: message");
    return;
  }
  die("parallel: the exception was lost");
}

// Every index of a loop over ranges is met once, in ranges that are no longer than asked for.
void require_ranges(std::int64_t count, std::int64_t most, int threads) {
  std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
  std::atomic<bool> short_enough{true};
  fastsi::parallel_ranges(count, most, threads, [&](std::int64_t begin, std::int64_t end) {
    if (end <= begin || end - begin > most) short_enough = false;
    for (std::int64_t i = begin; i < end; ++i) seen[i] += 1;
    const auto turns = (begin * 7919 + count) % 61 * 20;  // ranges of unequal cost
    for (volatile std::int64_t turn = 0; turn < turns; turn = turn + 1) {
    }
  });
  require(short_enough, "ranges: length");
  require(std::all_of(seen.begin(), seen.end(), [](const auto& x) { return x == 1; }),
          "ranges: indices");
}

void ranges() {
  const auto some = [] { require_ranges(pick(0, 300), pick(1, 40), static_cast<int>(pick(1, 4))); };
  some();
  fastsi::with_team(static_cast<int>(pick(1, 3)), [&] {
    for (std::int64_t i = pick(0, 4); i > 0; --i) some();
  });
  const std::int64_t count = pick(1, 200), bad = pick(0, count - 1);
  try {
    fastsi::parallel_ranges(count, 7, 3, [&](std::int64_t begin, std::int64_t end) {
      FASTSI_CHECK(bad < begin || bad >= end, "stop at ", bad);
    });
  } catch (const std::invalid_argument& error) {
    require(error.what() == "stop at " + std::to_string(bad), "ranges: message");
    return;
  }
  die("ranges: the exception was lost");
}

// Loops one after another by the leader of a team; one of them, or the leader, may fail.
void team() {
  const std::int64_t loops = pick(0, 20), bad = pick(0, 3) ? -1 : pick(0, loops);
  std::vector<std::int64_t> counts;
  for (std::int64_t i = 0; i < loops; ++i) counts.push_back(pick(0, 300));
  std::vector<std::int64_t> sums(counts.size());
  const auto run = [&] {
    for (std::int64_t l = 0; l < loops; ++l) {
      std::vector<std::int64_t> parts(static_cast<std::size_t>(counts[l]));
      fastsi::parallel_for(counts[l], 3, [&](std::int64_t i) {
        FASTSI_CHECK(l != bad || i > 0, "stop in loop ", l);
        // A loop in a body, on one thread.
        fastsi::parallel_for(3, 3, [&](std::int64_t j) { parts[i] += j; });
      });
      sums[l] = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
    }
    FASTSI_CHECK(bad != loops, "stop in loop ", loops);
  };
  bool failed = false;
  try {
    fastsi::with_team(static_cast<int>(pick(1, 3)), [&] { run(); });
  } catch (const std::invalid_argument& error) {
    failed = true;
    require(error.what() == "stop in loop " + std::to_string(bad), "team: message");
  }
  const bool expected = bad == loops || (bad >= 0 && counts[bad] > 0);
  require(failed == expected, "team: the exception was lost");
  const std::int64_t complete = failed ? bad : loops;
  for (std::int64_t l = 0; l < complete; ++l) require(sums[l] == 3 * counts[l], "team: indices");
}

}  // namespace

namespace fuzz {

void loops() {
  nested();
  ranges();
  team();
}

}  // namespace fuzz
