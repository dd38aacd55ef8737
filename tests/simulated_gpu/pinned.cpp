// Page-locked host memory: blocks that are kept, and wait for the copies that use them before they are handed out
// again.

#include <cstdlib>
#include <cstring>

#include "allocator.h"
#include "settings.h"

namespace simgpu {
namespace {

constexpr size_t LEAST = 512;

struct Host {
  char* data;
  size_t size;
  std::vector<std::pair<Stream*, MarkerPtr>> copies;
  bool is_free = false;
};

struct Pinned {
  std::mutex m;
  std::map<const char*, Host> blocks;

  Host* of(const void* data) {
    auto after = blocks.upper_bound(static_cast<const char*>(data));
    if (after == blocks.begin()) return nullptr;
    auto& host = std::prev(after)->second;
    return static_cast<const char*>(data) < host.data + host.size ? &host : nullptr;
  }
};

Pinned& pinned() {
  static auto* all = new Pinned;
  return *all;
}

bool is_done(const Host& host) {
  for (const auto& [_, marker] : host.copies) {
    if (!marker->is_complete()) return false;
  }
  return true;
}

char* handed_out(Host& host) {
  if (order::is_on()) order::forget(host.data, host.size);
  host.copies.clear();
  host.is_free = false;
  if (setting("SIMGPU_POISON", 0) != 0) memset(host.data, 0xff, host.size);
  return host.data;
}

size_t room_for(size_t n) {
  size_t size = LEAST;
  while (size < n) size *= 2;
  return size;
}

char* take(size_t size) {
  auto& all = pinned();
  std::lock_guard<std::mutex> lock(all.m);
  for (auto& [_, host] : all.blocks) {
    if (host.is_free && host.size == size && is_done(host)) return handed_out(host);
  }
  auto* data = static_cast<char*>(aligned_alloc(LEAST, size));
  TORCH_CHECK_WITH(OutOfMemoryError, data != nullptr, "CUDA error: out of memory (", size, " bytes of pinned memory)");
  return handed_out(all.blocks[data] = Host{data, size, {}});
}

void release(void* data) {
  auto& all = pinned();
  std::lock_guard<std::mutex> lock(all.m);
  if (auto* host = all.of(data)) host->is_free = true;
}

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    char* data = take(room_for(n));
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};

}  // namespace

c10::Allocator& pinned_allocator() {
  static auto* one = new Allocator;
  return *one;
}

bool is_pinned(const void* data) {
  auto& all = pinned();
  std::lock_guard<std::mutex> lock(all.m);
  return all.of(data) != nullptr;
}

void pinned_is_used(const void* data, Stream& stream) {
  auto marker = stream.mark();
  auto& all = pinned();
  std::lock_guard<std::mutex> lock(all.m);
  auto* host = all.of(data);
  if (host == nullptr) return;
  for (auto& [used, last] : host->copies) {
    if (used == &stream) {
      last = marker;
      return;
    }
  }
  host->copies.emplace_back(&stream, marker);
}

}  // namespace simgpu
