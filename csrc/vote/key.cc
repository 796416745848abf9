#include "fastsi/vote.h"
#include "fastsi/vote_device.h"

namespace fastsi::vote {

namespace {

void write_key(const DeviceKey& found, std::string* key) {
  switch (found.kind) {
    case DeviceKind::number:
      key->assign("num:").append(std::to_string(found.numerator));
      if (found.denominator != 1) key->append("/").append(std::to_string(found.denominator));
      return;
    case DeviceKind::choice:
      key->assign("choice:").push_back(static_cast<char>(found.numerator));
      return;
    case DeviceKind::boolean:
      key->assign(found.numerator != 0 ? "bool:yes" : "bool:no");
      return;
  }
}

}  // namespace

Status key_of_answer(std::string_view text, std::string* key) {
  DeviceKey found;
  if (text.size() <= device::kMaxSpan &&
      device_key(text.data(), static_cast<int>(text.size()), &found)) {
    write_key(found, key);
    return Status::key;
  }
  return Status::host;
}

}  // namespace fastsi::vote
