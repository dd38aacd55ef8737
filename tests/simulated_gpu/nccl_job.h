// An operation of a communicator, as it was asked for.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "nccl_comm.h"

namespace simnccl {

enum Kind { POINT_TO_POINT = 0, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, REDUCE };
inline const char* const NAMES[] = {"", "all-reduce", "reduce-scatter", "all-gather", "broadcast", "reduce"};

struct Job {
  ncclComm* comm;
  Deed deed;
  const char* from;
  char* to;
  // Of a send or a receive.
  int peer;
  bool is_send;
  void* stream;
};

inline bool is_pair(const char* name, int64_t a, int64_t b) {
  long x = -1, y = -1;
  const char* value = getenv(name);
  return value != nullptr && sscanf(value, "%ld:%ld", &x, &y) == 2 && x == a && y == b;
}

inline std::string shown(const Job& job) {
  const std::string rank = "rank " + std::to_string(job.comm->rank) + " in ";
  const std::string of = std::string(" of communicator ") + job.comm->name;
  if (job.deed.kind == POINT_TO_POINT) {
    return rank + (job.is_send ? "a send to rank " : "a receive from rank ") + std::to_string(job.peer) + of;
  }
  return rank + NAMES[job.deed.kind] + " " + std::to_string(job.deed.number) + of;
}

}  // namespace simnccl
