// Argument checks. A failed check throws std::invalid_argument, which Python sees as ValueError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace fastsi {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

// The message parts name the argument, its value and what it must be; they are only evaluated on
// failure.
#define FASTSI_CHECK(condition, ...)               \
  do {                                             \
    if (!(condition)) ::fastsi::fail(__VA_ARGS__); \
  } while (false)

}  // namespace fastsi
