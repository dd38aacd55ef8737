// Memory: the cards' caching allocator and the host's pinned blocks.
#pragma once

#include <c10/core/CachingDeviceAllocator.h>

#include <cstddef>

#include "streams.h"

namespace simgpu {

// Blocks belong to the stream that was current at their allocation: freed, they are handed out to it alone, at once,
// since its work is in order. Where another stream used one, `record_stream` makes it wait for that.
c10::DeviceAllocator& allocator();

// Page-locked host memory, which copies read and write behind the host's back. A block is handed out again only after
// the copies that were told of.
c10::Allocator& pinned_allocator();
bool is_pinned(const void* data);
// A copy on this stream uses pinned memory at `data`.
void pinned_is_used(const void* data, Stream& stream);

// Frees what NCCL was given although it is in use: its bytes become NaN in the order of its own stream, and a whole
// block is handed out again.
void free_early(int device, const void* data, size_t n_bytes);

}  // namespace simgpu
