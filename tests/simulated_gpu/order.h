// Proves that what touches the same memory is ordered, and names the pair of launches that is not.
//
// Judged as the sanitizer of PyTorch's CUDA streams does: at the launch, in the host's order, so that what is found
// does not depend on timing. Each stream has a clock of how far it has seen every stream; events carry clocks from
// stream to stream, the host's waits carry them to the host, and every launch takes the host's. A read must come after
// the last write of the same bytes, a write after the last write and all reads since. Memory is told apart by its
// address, so that a block that is freed (a write on the stream of its allocation, told once that stream is given more)
// and handed out again is judged too.
//
// It can't see: what the host reads or writes in pinned memory without an operator of libtorch's (through a pointer);
// order that only another process makes (a reply that comes after a request): what relies on it must wait itself; host
// threads that race, since all share one clock; parts of a strided view, which counts from its first to its last
// element.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace simgpu::order {

// A stream of the process, by device and number.
struct StreamKey {
  int device;
  int64_t id;
  bool operator<(const StreamKey& other) const {
    return device != other.device ? device < other.device : id < other.id;
  }
};

// How many launches of each stream are known to come before.
using Clock = std::map<StreamKey, uint64_t>;
using ClockPtr = std::shared_ptr<const Clock>;

// Bytes that a launch touches.
struct Access {
  const char* begin;
  size_t n_bytes;
  bool is_write;
};
using Accesses = std::vector<Access>;

bool is_on();

// The pair that is not ordered, in words: of several, that with the latest earlier launch.
using Finding = std::optional<std::string>;

Finding launched(StreamKey stream, const std::string& name, const Accesses& accesses);
Finding touched_by_host(const std::string& name, const Accesses& accesses);

// The stream's clock of the moment, for an event.
ClockPtr recorded(StreamKey stream);
void waited(StreamKey stream, const ClockPtr& event);
void host_waited(const ClockPtr& event);
// Whoever touched these bytes is known to be done, to the allocator and nobody else.
void forget(const void* begin, size_t n_bytes);

}  // namespace simgpu::order
