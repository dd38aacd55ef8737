// Which waits SIMGPU_SKIP_WAIT leaves out.

#include "skip.h"

#include <mutex>

#include "settings.h"

namespace simgpu::skip {

std::string kind_of(Work before, Work next) {
  if (next == Work::COLLECTIVE) return "ready";
  if (next == Work::LINK) return "link-ready";
  if (before == Work::COLLECTIVE) return "done";
  if (before == Work::LINK) return "link-done";
  return "stream";
}

bool is_left_out(const std::string& kind) {
  static const std::string meant = word("SIMGPU_SKIP_WAIT");
  if (meant != kind) return false;
  static std::mutex m;
  static long kept = setting("SIMGPU_SKIP_WAIT_AFTER", 0);
  static long left = setting("SIMGPU_SKIP_WAIT_COUNT", -1);
  std::lock_guard<std::mutex> lock(m);
  if (kept > 0) {
    --kept;
    return false;
  }
  if (left == 0) return false;
  if (left > 0) --left;
  static const int told = fprintf(stderr, "simgpu: the first wait of this kind is left out: %s\n", kind.c_str());
  return told > 0;
}

}  // namespace simgpu::skip
