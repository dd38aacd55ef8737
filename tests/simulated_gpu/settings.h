// What the environment asks of the simulated GPUs and of their NCCL: all variables in one place.
//
// Cards
//   SIMGPU_DEVICES          cards where CUDA_VISIBLE_DEVICES names none (2)
//   SIMGPU_MEMORY_MB        memory of a card (24576)
// Weather
//   SIMGPU_DELAY_US         a launch in SIMGPU_DELAY_EACH (50) sleeps up to so long (0)
//   SIMNCCL_DELAY_US        each collective, send and receive sleeps up to so long before it reads and before it writes (0)
//   SIMGPU_SEED             of the delays (1); told on standard error where there are any
//   SIMGPU_SYNC             1: the host waits for each launch
// Checks
//   SIMGPU_POISON           1: memory that is handed out or freed becomes NaN, a freed block in the order of its stream
//   SIMGPU_FENCE            1: each block ends at a page that nobody may touch
//   SIMGPU_ORDER            1: launches that touch the same memory must be ordered (order.h); the first that are not fail the card
//   SIMGPU_COUNTS           a file that gets a line of JSON a step and card (counts.h)
//   SIMGPU_TRACE            1: each launch on standard error; SIMNCCL_TRACE: each operation's end
//   SIMNCCL_MISMATCH        what happens once ranks that disagree have been told: hang, as NCCL would (the default), or fail
// Planted faults
//   SIMGPU_FAIL_AT          the launch of that number fails, and with it the card for ever (0: none)
//   SIMGPU_SKIP_WAIT        a kind of wait that is left out:
//                             ready, done            NCCL's stream waits for others before a collective; others wait for it after
//                             link-ready, link-done  the same around a send or a receive
//                             stream                 a stream waits for another, neither of them NCCL's
//                             copy                   the host waits for an event that comes after a copy into pinned memory
//   SIMGPU_SKIP_WAIT_AFTER  waits of that kind that are kept first (0)
//   SIMGPU_SKIP_WAIT_COUNT  waits of that kind that are left out then (all)
//   SIMGPU_FREE_EARLY       the buffer of that number (from 1) that NCCL is given is freed behind the launch, as if nobody had kept it
//   SIMNCCL_SKIP            RANK:N: that rank of a communicator leaves its collective N (from 0) out
//   SIMNCCL_SWAP            RANK:N: that rank of a communicator starts a collective, from its N on the first that is followed by
//                           one of another communicator of the same ranks (or two of them), only after that
//   SIMNCCL_CORRUPT         FROM:TO: the last byte of what one rank sends another arrives changed
#pragma once

#include <cstdlib>
#include <string>

namespace simgpu {

inline long setting(const char* name, long otherwise) {
  const char* value = getenv(name);
  return value != nullptr && *value != '\0' ? atol(value) : otherwise;
}

inline std::string word(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace simgpu
