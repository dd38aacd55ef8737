// The cards' caching allocator: a free list for each stream, statistics, poison, guard pages.

#include "allocator.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "settings.h"

namespace simgpu {

struct Block {
  int device;
  int64_t stream;
  size_t size;
  void* data;
  std::vector<int64_t> used_by;
  // Handed out again while somebody held it: whoever frees it then frees nothing.
  bool is_lost = false;
};

namespace {

using c10::DeviceIndex;
using c10::DeviceType;

constexpr size_t ROUND = 512;
constexpr size_t LINE = 64;
constexpr size_t PAGE = 4096;
constexpr int NAN_BYTE = 0xff;

bool poisons() {
  static const bool on = setting("SIMGPU_POISON", 0) != 0;
  return on;
}
bool fences() {
  static const bool on = setting("SIMGPU_FENCE", 0) != 0;
  return on;
}
size_t capacity() {
  static const size_t bytes = static_cast<size_t>(setting("SIMGPU_MEMORY_MB", 24576)) << 20;
  return bytes;
}

size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

// To the next line exact; such blocks are never given back to the system.
void* fenced(size_t n) {
  const size_t room = rounded(n, LINE), pages = rounded(room, PAGE);
  void* mapped = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK_WITH(OutOfMemoryError, mapped != MAP_FAILED, "CUDA out of memory: the host has no room for ", n,
                   " bytes");
  auto* memory = static_cast<char*>(mapped);
  mprotect(memory + pages, PAGE, PROT_NONE);
  return memory + pages - room;
}

void poison(void* data, size_t size) {
  if (poisons()) memset(data, NAN_BYTE, size);
}

// The moment from which bytes may be handed out again to the stream that they belong to.
void freed(Stream& own, const void* data, size_t n_bytes) {
  own.settle(Work::COMPUTE);
  if (!order::is_on()) return;
  own.doubt(order::launched(own.key(), "the free of a block", {{static_cast<const char*>(data), n_bytes, true}}));
}

void freed(const Block& block) { freed(stream(block.device, block.stream), block.data, block.size); }

void give(Gpu& card, Block* block) {
  if (poisons()) {
    stream(block->device, block->stream)
        .enqueue([data = block->data, size = block->size] { poison(data, size); }, Work::COMPUTE);
  }
  card.free[block->stream].emplace(block->size, block);
}

bool is_done(const std::pair<Block*, std::vector<MarkerPtr>>& entry) {
  return std::all_of(entry.second.begin(), entry.second.end(), [](auto& marker) { return marker->is_complete(); });
}

// Frees blocks that other streams used, where these are done.
void reclaim(Gpu& card) {
  auto& all = card.deferred;
  auto done = std::stable_partition(all.begin(), all.end(), [](auto& entry) { return !is_done(entry); });
  for (auto entry = done; entry != all.end(); ++entry) {
    if (order::is_on()) order::forget(entry->first->data, entry->first->size);
    freed(*entry->first);
    give(card, entry->first);
  }
  all.erase(done, all.end());
}

Block* take(Gpu& card, int64_t stream, size_t size) {
  auto& list = card.free[stream];
  auto found = list.lower_bound(size);
  if (found == list.end() || found->first > 2 * size || (fences() && found->first != size)) return nullptr;
  Block* block = found->second;
  list.erase(found);
  card.stats.allocated_bytes[0].increase(block->size);
  return block;
}

size_t reserved(Gpu& card) {
  std::lock_guard<std::mutex> lock(card.memory);
  return static_cast<size_t>(card.stats.reserved_bytes[0].current);
}

void refuse(Gpu& card, int device, size_t n) {
  ++card.stats.num_ooms;
  const size_t in_use = static_cast<size_t>(card.stats.reserved_bytes[0].current);
  TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", n >> 20, " MiB. GPU ", device,
                   " has a total capacity of ", capacity() >> 20, " MiB of which ", (capacity() - in_use) >> 20,
                   " MiB is free.");
}

Block* grow(Gpu& card, int device, size_t n, size_t size) {
  if (reserved(card) + size > capacity()) allocator().emptyCache({0, 0});
  std::lock_guard<std::mutex> lock(card.memory);
  auto& reserved = card.stats.reserved_bytes[0];
  if (static_cast<size_t>(reserved.current) + size > capacity()) refuse(card, device, n);
  void* data = fences() ? fenced(n) : aligned_alloc(ROUND, size);
  TORCH_CHECK_WITH(OutOfMemoryError, data != nullptr, "CUDA out of memory: the host has no room for ", n, " bytes");
  poison(data, size);
  reserved.increase(static_cast<int64_t>(size));
  card.stats.allocated_bytes[0].increase(static_cast<int64_t>(size));
  return new Block{device, current_stream(device).id(), size, data, {}};
}

// Blocks that are in use, by where they begin; kept only where one is to be freed early.
struct Live {
  const bool is_kept = setting("SIMGPU_FREE_EARLY", 0) > 0;
  std::mutex m;
  std::map<const char*, Block*> blocks;

  void add(Block* block) {
    if (!is_kept) return;
    std::lock_guard<std::mutex> lock(m);
    blocks[static_cast<char*>(block->data)] = block;
  }
  void remove(Block* block) {
    if (!is_kept || block->is_lost) return;
    std::lock_guard<std::mutex> lock(m);
    blocks.erase(static_cast<char*>(block->data));
  }
  Block* of(const char* data) {
    std::lock_guard<std::mutex> lock(m);
    auto after = blocks.upper_bound(data);
    if (after == blocks.begin()) return nullptr;
    auto* block = std::prev(after)->second;
    return data < static_cast<char*>(block->data) + block->size ? block : nullptr;
  }
};

Live& live() {
  static auto* all = new Live;
  return *all;
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block == nullptr) return;
  live().remove(block);
  if (block->is_lost) {
    delete block;
    return;
  }
  auto& card = gpu(block->device);
  std::vector<MarkerPtr> markers;
  for (auto id : block->used_by) markers.push_back(stream(block->device, id).mark());
  block->used_by.clear();
  std::lock_guard<std::mutex> lock(card.memory);
  card.stats.allocated_bytes[0].decrease(static_cast<int64_t>(block->size));
  if (markers.empty()) {
    freed(*block);
    give(card, block);
  } else {
    card.deferred.emplace_back(block, std::move(markers));
  }
}

class Allocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    const int device = current_device();
    auto& card = gpu(device);
    card.is_used = true;
    c10::Device on(DeviceType::CUDA, static_cast<DeviceIndex>(device));
    if (n == 0) return {nullptr, nullptr, &release, on};
    const size_t size = rounded(n, fences() ? LINE : ROUND);
    Block* block = nullptr;
    {
      std::lock_guard<std::mutex> lock(card.memory);
      reclaim(card);
      block = take(card, current_stream(device).id(), size);
    }
    if (block == nullptr) block = grow(card, device, n, size);
    live().add(block);
    return {block->data, block, &release, on};
  }

  void emptyCache(c10::MempoolId_t) override {
    for (int device = 0; device < n_devices(); ++device) empty(gpu(device));
  }

  void recordStream(const c10::DataPtr& ptr, c10::Stream stream) override {
    if (ptr.get_context() == nullptr || ptr.get_deleter() != &release) return;
    auto* block = static_cast<Block*>(ptr.get_context());
    auto& used = block->used_by;
    if (block->stream != stream.id() && std::find(used.begin(), used.end(), stream.id()) == used.end()) {
      used.push_back(stream.id());
    }
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    auto& card = gpu(device);
    std::lock_guard<std::mutex> lock(card.memory);
    return card.stats;
  }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex device) override {
    auto& card = gpu(device);
    std::lock_guard<std::mutex> lock(card.memory);
    card.stats.allocated_bytes[0].reset_peak();
    card.stats.reserved_bytes[0].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override {
    return {capacity() - reserved(gpu(device)), capacity()};
  }

  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
  bool initialized() override { return true; }

 private:
  static void empty(Gpu& card) {
    synchronize(card);
    std::lock_guard<std::mutex> lock(card.memory);
    reclaim(card);
    for (auto& [_, list] : card.free) {
      for (auto& [size, block] : list) {
        card.stats.reserved_bytes[0].decrease(static_cast<int64_t>(size));
        if (!fences()) ::free(block->data);
        delete block;
      }
      list.clear();
    }
  }
};

struct Registered {
  Registered() { c10::SetAllocator(DeviceType::CUDA, &allocator(), 0); }
} registered;

}  // namespace

c10::DeviceAllocator& allocator() {
  static auto* one = new Allocator;
  return *one;
}

void free_early(int device, const void* data, size_t n_bytes) {
  auto* block = live().of(static_cast<const char*>(data));
  TORCH_CHECK(block != nullptr, "SIMGPU_FREE_EARLY: NCCL was given memory that is nobody's");
  auto& own = stream(device, block->stream);
  fprintf(stderr, "simgpu: a buffer of %zu bytes that NCCL uses is freed early\n", n_bytes);
  freed(own, data, n_bytes);
  auto* bytes = static_cast<char*>(const_cast<void*>(data));
  own.enqueue([bytes, n_bytes] { memset(bytes, NAN_BYTE, n_bytes); }, Work::COMPUTE);
  if (bytes != block->data || rounded(n_bytes, fences() ? LINE : ROUND) < block->size) return;
  live().remove(block);
  block->is_lost = true;
  auto& card = gpu(device);
  std::lock_guard<std::mutex> lock(card.memory);
  card.free[block->stream].emplace(block->size, new Block{device, block->stream, block->size, block->data, {}});
}

}  // namespace simgpu
