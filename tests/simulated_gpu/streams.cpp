// The streams' threads, what they wait for, and launches.

#include "streams.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "settings.h"
#include "skip.h"

namespace simgpu {
namespace {

constexpr size_t QUEUE = 1024;

thread_local int the_current_device = 0;
thread_local std::array<int64_t, MAX_DEVICES> the_current_stream{};
thread_local bool the_thread_is_a_stream_s = false;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int count_devices() {
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return static_cast<int>(std::min<long>(setting("SIMGPU_DEVICES", 2), MAX_DEVICES));
  if (*visible == '\0') return 0;
  return std::min<int>(1 + static_cast<int>(std::count(visible, visible + strlen(visible), ',')), MAX_DEVICES);
}

std::array<Gpu, MAX_DEVICES>& all_gpus() {
  // Lives as long as the process, since the streams' threads do.
  static auto* all = [] {
    auto* gpus = new std::array<Gpu, MAX_DEVICES>;
    for (int device = 0; device < MAX_DEVICES; ++device) {
      for (int64_t id = 0; id <= N_POOL; ++id) (*gpus)[device].streams[id].name(device, id);
    }
    return gpus;
  }();
  return *all;
}

// Sleeps now and then, by dice that are each stream's own.
void nap(const Stream& stream) {
  static const long limit = setting("SIMGPU_DELAY_US", 0);
  static const long each = std::max<long>(1, setting("SIMGPU_DELAY_EACH", 50));
  if (limit == 0) return;
  static const long seed = [] {
    const long value = setting("SIMGPU_SEED", 1);
    fprintf(stderr, "simgpu: delays of up to %ld us from seed %ld\n", limit, value);
    return value;
  }();
  thread_local std::minstd_rand dice(static_cast<unsigned>(1 + seed * 7919 + stream.device() * 101 + stream.id()));
  if (static_cast<long>(dice() % each) == 0) usleep(static_cast<useconds_t>(dice() % limit));
}

bool is_to_fail() {
  static std::atomic<long> left{setting("SIMGPU_FAIL_AT", 0)};
  return left > 0 && --left == 0;
}

void perform(Gpu& gpu, const Stream& stream, const Task& body) {
  if (gpu.has_failed()) return;
  nap(stream);
  if (is_to_fail()) return gpu.fail("an illegal memory access was encountered");
  try {
    body();
  } catch (const c10::Error& error) {
    gpu.fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    gpu.fail(error.what());
  }
}

void trace(const Stream& stream, const Launch& what) {
  static const bool on = setting("SIMGPU_TRACE", 0) != 0;
  if (on) {
    fprintf(stderr, "simgpu: launch %s on stream %ld of device %d\n", what.name.c_str(), static_cast<long>(stream.id()),
            stream.device());
  }
}

}  // namespace

void Marker::complete() {
  std::lock_guard<std::mutex> lock(m_);
  is_complete_ = true;
  at_ = now();
  passed_.notify_all();
}

void Marker::wait() {
  std::unique_lock<std::mutex> lock(m_);
  passed_.wait(lock, [&] { return is_complete_; });
}

bool Marker::is_complete() {
  std::lock_guard<std::mutex> lock(m_);
  return is_complete_;
}

double Marker::at() {
  std::lock_guard<std::mutex> lock(m_);
  return at_;
}

void Stream::name(int device, int64_t id) {
  device_ = device;
  id_ = id;
}

void Stream::enqueue(Task task, Work work) {
  settle(work);
  last_ = work;
  push(std::move(task));
}

MarkerPtr Stream::mark() {
  settle(last_);
  auto marker = std::make_shared<Marker>(last_, n_copies, order::is_on() ? order::recorded(key()) : nullptr);
  push([marker] { marker->complete(); });
  return marker;
}

void Stream::wait_for(const MarkerPtr& marker) {
  std::lock_guard<std::mutex> lock(m_);
  waits_.push_back(marker);
}

void Stream::settle(Work next) {
  std::vector<MarkerPtr> waits;
  {
    std::lock_guard<std::mutex> lock(m_);
    waits.swap(waits_);
  }
  for (auto& marker : waits) {
    if (skip::is_left_out(skip::kind_of(marker->after, next))) continue;
    if (order::is_on()) order::waited(key(), marker->clock);
    push([marker] { marker->wait(); });
  }
}

void Stream::doubt(order::Finding finding) {
  std::lock_guard<std::mutex> lock(m_);
  if (!doubt_) doubt_ = std::move(finding);
}

order::Finding Stream::take_doubt() {
  std::lock_guard<std::mutex> lock(m_);
  return std::exchange(doubt_, std::nullopt);
}

void Stream::push(Task task) {
  std::unique_lock<std::mutex> lock(m_);
  if (!is_used_) {
    is_used_ = true;
    std::thread([this] { run(); }).detach();
  }
  if (!the_thread_is_a_stream_s) room_.wait(lock, [&] { return queue_.size() < QUEUE; });
  queue_.push_back(std::move(task));
  work_.notify_one();
}

void Stream::run() {
  the_thread_is_a_stream_s = true;
  the_current_device = device_;
  // The getter first: it runs libtorch's lazy initialisation, which would overwrite the width.
  at::get_num_threads();
  at::set_num_threads(1);
  at::AutoDispatchBelowADInplaceOrView below;
  c10::AutoGradMode no_grad(false);
  for (;;) {
    Task task;
    {
      std::unique_lock<std::mutex> lock(m_);
      work_.wait(lock, [&] { return !queue_.empty(); });
      task = std::move(queue_.front());
      queue_.pop_front();
      room_.notify_one();
    }
    task();
  }
}

void Gpu::fail(const std::string& what) {
  std::lock_guard<std::mutex> lock(m_);
  if (has_failed_) return;
  error_ = what;
  has_failed_ = true;
  fprintf(stderr, "simgpu: a kernel failed: %s\n", what.c_str());
}

void Gpu::check() {
  if (!has_failed_) return;
  std::lock_guard<std::mutex> lock(m_);
  TORCH_CHECK(false, "CUDA error: ", error_);
}

int n_devices() {
  static const int n = count_devices();
  return n;
}

Gpu& gpu(int device) {
  TORCH_CHECK(device >= 0 && device < n_devices(), "CUDA error: invalid device ordinal (", device, " of ", n_devices(),
              ")");
  return all_gpus()[static_cast<size_t>(device)];
}

Stream& stream(int device, int64_t id) {
  TORCH_CHECK(id >= 0 && id <= N_POOL, "CUDA error: invalid resource handle (stream ", id, ")");
  return gpu(device).streams[static_cast<size_t>(id)];
}

int current_device() { return the_current_device; }
void set_current_device(int device) { the_current_device = device; }
Stream& current_stream(int device) { return stream(device, the_current_stream[static_cast<size_t>(device)]); }
void set_current_stream(const Stream& stream) {
  the_current_stream[static_cast<size_t>(stream.device())] = stream.id();
}
bool is_on_stream() { return the_thread_is_a_stream_s; }

void launch(Stream& stream, Launch what, Task body) {
  static const bool is_sync = setting("SIMGPU_SYNC", 0) != 0;
  auto& card = gpu(stream.device());
  card.check();
  card.is_used = true;
  trace(stream, what);
  stream.settle(what.work);
  if (order::is_on()) {
    object(stream.device(), stream.take_doubt());
    object(stream.device(), order::launched(stream.key(), what.name, what.accesses));
  }
  stream.enqueue([&card, &stream, body = std::move(body)] { perform(card, stream, body); }, what.work);
  if (is_sync) synchronize(stream);
}

void synchronize(int device, Marker& marker) {
  marker.wait();
  if (order::is_on()) order::host_waited(marker.clock);
  gpu(device).check();
}

void synchronize(Stream& stream) { synchronize(stream.device(), *stream.mark()); }

void synchronize(Gpu& card) {
  std::vector<MarkerPtr> markers;
  for (auto& stream : card.streams) {
    if (stream.is_used()) markers.push_back(stream.mark());
  }
  for (auto& marker : markers) {
    marker->wait();
    if (order::is_on()) order::host_waited(marker->clock);
  }
  card.check();
}

void object(int device, const order::Finding& finding) {
  if (!finding || gpu(device).has_failed()) return;
  fprintf(stderr, "simgpu: order: %s\n", finding->c_str());
  gpu(device).fail("launches that touch the same memory are not ordered: " + *finding);
}

}  // namespace simgpu
