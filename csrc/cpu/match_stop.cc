#include "fastsi/match_stop.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "fastsi/match_stop_rules.h"

namespace fastsi {
namespace {

constexpr std::uint8_t kSpecialToken = 1;  // flag of fastsi.ops.TokenBytes
static_assert(stop::kWindow == kAnswerWindow, "the state holds what the rules look at");

template <typename T>
T* writable(const char* name, const TensorView& view, DType dtype, std::int64_t size) {
  return const_cast<T*>(vector_of<T>(name, view, dtype, size));
}

template <typename T>
const T* column(const char* name, const TensorView& view, DType dtype) {
  require_dims(name, view, 1);
  return vector_of<T>(name, view, dtype, view.shape[0]);
}

// A CSR of byte strings, checked once per call.
struct Strings {
  const std::int64_t* indptr;
  const char* bytes;
  std::int64_t count;

  Strings(const char* name, const TensorView& offsets, const TensorView& data)
      : indptr(column<std::int64_t>(name, offsets, DType::i64)),
        bytes(reinterpret_cast<const char*>(column<std::uint8_t>(name, data, DType::u8))),
        count(offsets.shape[0] - 1) {
    FASTSI_CHECK(count >= 0 && indptr[0] == 0 && indptr[count] <= data.shape[0], name,
                 ": offsets must begin with 0 and end within the bytes");
  }
  std::string_view operator[](std::int64_t i) const {
    return {bytes + indptr[i], static_cast<std::size_t>(indptr[i + 1] - indptr[i])};
  }
};

}  // namespace

std::int64_t first_answer(std::string_view text, std::int64_t begin, bool thinking) {
  return stop::scan({text.data(), text.size()}, 0,
                    static_cast<std::size_t>(std::max<std::int64_t>(begin, 0)), &thinking);
}

void match_stop(const TensorView& tokens, const TensorView& slots, const TokenBytes& table,
                const StopRules& rules, const StopState& state, const TensorView& hit) {
  const std::int64_t rows = tokens.shape[0];
  const auto* token = vector_of<std::int64_t>("tokens", tokens, DType::i64, rows);
  const auto* slot = vector_of<std::int64_t>("slots", slots, DType::i64, rows);
  auto* out = writable<std::uint8_t>("hit", hit, DType::u8, rows);
  const Strings bytes("table", table.offsets, table.data);
  const auto* flags = vector_of<std::uint8_t>("flags", table.flags, DType::u8, bytes.count);
  const Strings strings("string_indptr", rules.string_indptr, rules.string_bytes);
  const auto* classes = column<std::int64_t>("class_indptr", rules.class_indptr, DType::i64);
  const std::int64_t num_classes = rules.class_indptr.shape[0] - 1;
  const auto* answers = vector_of<std::uint8_t>("answers", rules.answers, DType::u8, num_classes);
  const auto* special = vector_of<std::uint8_t>("special", rules.special, DType::u8, num_classes);
  require_dims("tail", state.tail, 2);
  require_dtype("tail", state.tail, DType::u8);
  require_contiguous("tail", state.tail);
  const std::int64_t capacity = state.tail.shape[0], width = state.tail.shape[1];
  const auto* rule = vector_of<std::int32_t>("rule", state.rule, DType::i32, capacity);
  auto* length = writable<std::int32_t>("length", state.length, DType::i32, capacity);
  auto* thinking = writable<std::uint8_t>("thinking", state.thinking, DType::u8, capacity);
  std::string text;
  for (std::int64_t r = 0; r < rows; ++r) {
    out[r] = 0;
    FASTSI_CHECK(0 <= slot[r] && slot[r] < capacity, "slots[", r, "]: is ", slot[r],
                 ", must be in 0..", capacity - 1);
    const std::int64_t s = slot[r], which = rule[s];
    if (which < 0) continue;
    FASTSI_CHECK(which < num_classes, "rule[", s, "]: is ", which, ", there are ", num_classes);
    FASTSI_CHECK(token[r] >= 0, "tokens[", r, "]: is ", token[r], ", must be at least 0");
    const bool spelled =
        token[r] < bytes.count && (special[which] || !(flags[token[r]] & kSpecialToken));
    if (!spelled) continue;
    FASTSI_CHECK(0 <= length[s] && length[s] <= width, "length[", s, "]: is ", length[s]);
    char* tail = static_cast<char*>(state.tail.data) + s * width;
    const auto had = static_cast<std::size_t>(length[s]);
    text.assign(tail, had);
    text += bytes[token[r]];
    const stop::Text whole(text.data(), text.size());
    out[r] = stop::completes(whole, had, strings.bytes, strings.indptr, classes[which],
                             classes[which + 1]);
    bool thinks = thinking[s] != 0;
    if (answers[which] && stop::scan(whole, had, 0, &thinks) >= 0) out[r] = 1;
    thinking[s] = thinks;
    const std::size_t keep = std::min(text.size(), static_cast<std::size_t>(width));
    std::memcpy(tail, text.data() + text.size() - keep, keep);
    length[s] = static_cast<std::int32_t>(keep);
  }
}

}  // namespace fastsi
