// The simulated NCCL's way in: its operations are launches like others.

#include "exports.h"

#include <c10/util/Exception.h>

#include "allocator.h"
#include "counts.h"
#include "settings.h"
#include "streams.h"

namespace simgpu {
namespace {

Launch described(const SimgpuLaunch& what) {
  Launch launch{what.name, {}, what.is_link ? Work::LINK : Work::COLLECTIVE};
  for (size_t i = 0; order::is_on() && i < what.n_buffers; ++i) {
    const auto& buffer = what.buffers[i];
    if (buffer.n_bytes > 0)
      launch.accesses.push_back({static_cast<const char*>(buffer.data), buffer.n_bytes, buffer.is_write});
  }
  return launch;
}

// Counts the buffers that NCCL is given; true at the one that is to be freed early.
bool is_to_be_freed() {
  static std::atomic<long> left{setting("SIMGPU_FREE_EARLY", 0)};
  return left > 0 && --left == 0;
}

// All buffers of an operation lie in the largest.
const SimgpuBuffer& whole(const SimgpuLaunch& what) {
  const auto* largest = what.buffers;
  for (size_t i = 1; i < what.n_buffers; ++i) {
    if (what.buffers[i].n_bytes > largest->n_bytes) largest = &what.buffers[i];
  }
  return *largest;
}

void launch_for_nccl(Stream& stream, const SimgpuLaunch& what) {
  what.is_link ? counts::link(stream.device()) : counts::collective(stream.device());
  launch(stream, described(what), [body = what.body, argument = what.argument] { body(argument); });
  if (!is_to_be_freed()) return;
  const auto& buffer = whole(what);
  free_early(stream.device(), buffer.data, buffer.n_bytes);
}

}  // namespace
}  // namespace simgpu

extern "C" {

int simgpu_launch(void* stream, const SimgpuLaunch* what) {
  try {
    simgpu::launch_for_nccl(*static_cast<simgpu::Stream*>(stream), *what);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

void simgpu_fail(void* stream, const char* what) { simgpu::gpu(simgpu_device_of(stream)).fail(what); }
int simgpu_device_of(void* stream) { return static_cast<simgpu::Stream*>(stream)->device(); }
int simgpu_current_device() { return simgpu::current_device(); }
}
