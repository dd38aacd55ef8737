// The device guard: libtorch's way to devices, streams and events.

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "allocator.h"
#include "counts.h"
#include "skip.h"
#include "streams.h"

namespace simgpu {
namespace {

using c10::DeviceIndex;
using c10::DeviceType;

struct Event {
  bool has_timing;
  int device;
  int64_t stream = 0;
  MarkerPtr marker;
};

c10::Stream as_c10(const Stream& stream) {
  c10::Device on(DeviceType::CUDA, static_cast<DeviceIndex>(stream.device()));
  return c10::Stream(c10::Stream::UNSAFE, on, stream.id());
}

Stream& of_c10(const c10::Stream& from) { return stream(from.device_index(), from.id()); }

bool is_recorded(const Event* event) { return event != nullptr && event->marker != nullptr; }

// The kind of wait that the host makes for an event.
std::string host_wait(const Event& event) {
  const bool is_for_a_copy = event.marker->n_copies > stream(event.device, event.stream).n_seen_copies;
  return is_for_a_copy ? "copy" : "event";
}

}  // namespace

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }

  c10::Device getDevice() const override { return {DeviceType::CUDA, static_cast<DeviceIndex>(current_device())}; }
  void setDevice(c10::Device device) const override {
    gpu(device.index());
    set_current_device(device.index());
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override { set_current_device(device.index()); }
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(n_devices()); }

  c10::Stream getStream(c10::Device device) const override { return as_c10(current_stream(device.index())); }
  c10::Stream getDefaultStream(c10::Device device) const override { return as_c10(stream(device.index(), 0)); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    const int index = device.index() < 0 ? current_device() : device.index();
    return as_c10(stream(index, 1 + gpu(index).next++ % N_POOL));
  }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStreamFromGlobalPool(device, false); }
  c10::Stream exchangeStream(c10::Stream to) const override {
    auto& before = current_stream(to.device_index());
    set_current_stream(of_c10(to));
    return as_c10(before);
  }
  void* getStreamNativeHandle(const c10::Stream of) const override { return &of_c10(of); }
  bool queryStream(const c10::Stream& of) const override { return of_c10(of).mark()->is_complete(); }
  void synchronizeStream(const c10::Stream& of) const override {
    counts::waited(of.device_index(), "stream");
    synchronize(of_c10(of));
  }
  void synchronizeDevice(DeviceIndex device) const override {
    const int index = device < 0 ? current_device() : device;
    counts::waited(index, "device");
    synchronize(gpu(index));
  }

  void destroyEvent(void* event, DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void record(void** event, const c10::Stream& of, DeviceIndex device, c10::EventFlag flag) const override {
    auto& on = of_c10(of);
    TORCH_CHECK(device == -1 || device == of.device_index(), "Event device index ", int(device),
                " does not match recording stream's device index ", int(of.device_index()), ".");
    if (*event == nullptr) *event = new Event{flag == c10::EventFlag::BACKEND_DEFAULT, on.device(), 0, nullptr};
    auto* recorded = static_cast<Event*>(*event);
    TORCH_CHECK(recorded->device == on.device(), "CUDA error: invalid resource handle");
    recorded->stream = on.id();
    recorded->marker = on.mark();
  }
  void block(void* event, const c10::Stream& of) const override {
    auto* awaited = static_cast<Event*>(event);
    if (is_recorded(awaited)) of_c10(of).wait_for(awaited->marker);
  }
  bool queryEvent(void* event) const override {
    auto* asked = static_cast<Event*>(event);
    return !is_recorded(asked) || asked->marker->is_complete();
  }
  void synchronizeEvent(void* event) const override {
    auto* awaited = static_cast<Event*>(event);
    if (!is_recorded(awaited)) return;
    const std::string kind = host_wait(*awaited);
    counts::waited(awaited->device, "event");
    if (skip::is_left_out(kind)) return;
    auto marker = awaited->marker;
    synchronize(awaited->device, *marker);
    stream(awaited->device, awaited->stream).n_seen_copies = marker->n_copies;
  }
  double elapsedTime(void* from, void* to, DeviceIndex) const override {
    auto *first = static_cast<Event*>(from), *last = static_cast<Event*>(to);
    TORCH_CHECK(is_recorded(first) && is_recorded(last),
                "Both events must be recorded before calculating elapsed time.");
    TORCH_CHECK(first->has_timing && last->has_timing, "CUDA error: invalid resource handle (an event without timing)");
    TORCH_CHECK(first->marker->is_complete() && last->marker->is_complete(), "CUDA error: device not ready");
    return (last->marker->at() - first->marker->at()) * 1e3;
  }
  void recordDataPtrOnStream(const c10::DataPtr& ptr, const c10::Stream& of) const override {
    allocator().recordStream(ptr, of);
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

}  // namespace simgpu
