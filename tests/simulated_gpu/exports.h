// What the simulated NCCL, a library of its own, uses of the simulated CUDA; found by name at run time.
#pragma once

#include <stddef.h>

extern "C" {

struct SimgpuBuffer {
  const void* data;
  size_t n_bytes;
  bool is_write;
};

// An operation of NCCL's.
struct SimgpuLaunch {
  const char* name;
  // A send or a receive, not a collective.
  bool is_link;
  const SimgpuBuffer* buffers;
  size_t n_buffers;
  void (*body)(void*);
  void* argument;
};

// Launches on a stream; 1 where the card has failed.
int simgpu_launch(void* stream, const SimgpuLaunch* what);
// Lets the stream's card fail.
void simgpu_fail(void* stream, const char* what);
int simgpu_device_of(void* stream);
int simgpu_current_device();
}
