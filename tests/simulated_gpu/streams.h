// Cards and their streams: threads that work off queues in order. All semantics are CUDA's, as far as libtorch relies
// on them.
#pragma once

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "order.h"

namespace simgpu {

constexpr int MAX_DEVICES = 16;
constexpr int64_t N_POOL = 32;

// What a stream was given.
enum class Work { COMPUTE, COLLECTIVE, LINK };

// A point in a stream's work, once it has been passed.
class Marker {
 public:
  Marker(Work after, long n_copies, order::ClockPtr clock)
      : after(after), n_copies(n_copies), clock(std::move(clock)) {}
  void complete();
  void wait();
  bool is_complete();
  // When it was passed, in seconds of the steady clock.
  double at();

  // What the stream was given last before, and how many copies into pinned memory.
  const Work after;
  const long n_copies;
  const order::ClockPtr clock;

 private:
  std::mutex m_;
  std::condition_variable passed_;
  bool is_complete_ = false;
  double at_ = 0;
};
using MarkerPtr = std::shared_ptr<Marker>;
using Task = std::function<void()>;

class Stream {
 public:
  void name(int device, int64_t id);
  int device() const { return device_; }
  int64_t id() const { return id_; }
  order::StreamKey key() const { return {device_, id_}; }

  // Gives it a task after what it was told to wait for. The host waits where the queue is full.
  void enqueue(Task task, Work work);
  // Marks the end of what it was given so far.
  MarkerPtr mark();
  // Lets what comes next wait. Which kind of wait it is, the next task shows.
  void wait_for(const MarkerPtr& marker);
  // Settles what it was told to wait for, before a task of that kind.
  void settle(Work next);
  // A free that is not in order matters once something else comes: a program that ends frees what it likes.
  void doubt(order::Finding finding);
  order::Finding take_doubt();
  // Copies into pinned memory that it was given, and of these how many the host has waited for.
  std::atomic<long> n_copies{0}, n_seen_copies{0};
  bool is_used() const { return is_used_; }

 private:
  void push(Task task);
  void run();

  int device_ = 0;
  int64_t id_ = 0;
  std::atomic<Work> last_{Work::COMPUTE};
  std::atomic<bool> is_used_{false};
  std::mutex m_;
  std::condition_variable work_, room_;
  std::deque<Task> queue_;
  std::vector<MarkerPtr> waits_;
  order::Finding doubt_;
};

struct Block;

// A card.
class Gpu {
 public:
  std::array<Stream, N_POOL + 1> streams;
  std::atomic<unsigned> next{0};
  std::atomic<bool> is_used{false};

  // The first error of a kernel stays for ever, and surfaces at the next launch or wait.
  void fail(const std::string& what);
  bool has_failed() const { return has_failed_; }
  void check();

  // The caching allocator's: free blocks by the stream that may take them and by size, blocks that other streams still
  // use, and statistics.
  std::mutex memory;
  std::map<int64_t, std::multimap<size_t, Block*>> free;
  std::vector<std::pair<Block*, std::vector<MarkerPtr>>> deferred;
  c10::CachingDeviceAllocator::DeviceStats stats;

 private:
  std::mutex m_;
  std::string error_;
  std::atomic<bool> has_failed_{false};
};

// A launch: what it is called, and what it touches where the order is checked.
struct Launch {
  std::string name;
  order::Accesses accesses;
  Work work = Work::COMPUTE;
};

int n_devices();
Gpu& gpu(int device);
Stream& stream(int device, int64_t id);

// Of the calling thread.
int current_device();
void set_current_device(int device);
Stream& current_stream(int device);
void set_current_stream(const Stream& stream);
bool is_on_stream();

void launch(Stream& stream, Launch what, Task body);
// The host waits for all that the stream, or the card, was given; what its kernels did wrong surfaces here.
void synchronize(Stream& stream);
void synchronize(Gpu& gpu);
// The host waits for a point of a stream.
void synchronize(int device, Marker& marker);

// Prints what the checker found, and lets the card fail; of a card that has failed nothing more is told.
void object(int device, const order::Finding& finding);

}  // namespace simgpu
