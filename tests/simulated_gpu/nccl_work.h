// What NCCL's operations do, on the thread of the stream that they were launched on.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <random>

#include "exports.h"
#include "nccl_job.h"
#include "nccl_sums.h"
#include "nccl_swap.h"
#include "settings.h"

namespace simnccl {

using simgpu::setting;

// The simulated CUDA, which the program has loaded for all.
template <typename F>
F of_cuda(const char* name) {
  void* found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) {
    fprintf(stderr, "simnccl: no %s: the simulated libtorch_cuda.so is not loaded\n", name);
    abort();
  }
  return reinterpret_cast<F>(found);
}

inline void fail(const Job& job, const char* what) { of_cuda<decltype(&simgpu_fail)>("simgpu_fail")(job.stream, what); }

inline bool give_up(const Job& job) {
  fail(job, "NCCL: operations of several communicators wait for each other");
  return false;
}

// Ranks that disagree hang, as NCCL would let them.
inline bool disagree(const Job& job) {
  if (simgpu::word("SIMNCCL_MISMATCH") == "fail") {
    fail(job, "NCCL: ranks disagree");
    return false;
  }
  for (;;) pause();
}

inline void nap(const Job& job) {
  static const long limit = setting("SIMNCCL_DELAY_US", 0);
  if (limit == 0) return;
  static const long seed = [] {
    const long value = setting("SIMGPU_SEED", 1);
    fprintf(stderr, "simnccl: delays of up to %ld us from seed %ld\n", limit, value);
    return value;
  }();
  thread_local std::minstd_rand dice(static_cast<unsigned>(1 + seed * 7919 + job.comm->rank * 101 + job.comm->world));
  usleep(static_cast<useconds_t>(dice() % limit));
}

inline std::string shown(const Deed& deed) {
  return std::string(NAMES[deed.kind]) + " " + std::to_string(deed.number) + " of " + std::to_string(deed.count) +
         " x type " + std::to_string(deed.type) + " (root " + std::to_string(deed.root) + ")";
}

// Compares what all ranks are about to do, before any data is used.
inline bool agree(const Job& job) {
  const auto& comm = *job.comm;
  for (int other = 0; other < comm.world; ++other) {
    const Deed& theirs = comm.member(other).deed;
    if (theirs == job.deed) continue;
    fprintf(stderr, "simnccl: mismatch on %s: rank %d is in %s, rank %d in %s\n", comm.name, comm.rank,
            shown(job.deed).c_str(), other, shown(theirs).c_str());
    return disagree(job);
  }
  return true;
}

// A collective, a chunk at a time: everybody lays down its own, all meet, everybody takes what it needs, all meet.
class Collective {
 public:
  explicit Collective(const Job& job)
      : job_(job),
        comm_(*job.comm),
        item_(size_of(job.deed.type)),
        n_(static_cast<size_t>(job.deed.count)),
        wait_(job.stream, shown(job)) {
    const size_t room = is_cut() ? CHUNK / static_cast<size_t>(comm_.world) : CHUNK;
    step_ = room / item_;
  }

  bool run() {
    comm_.member(comm_.rank).deed = job_.deed;
    nap(job_);
    size_t at = 0;
    do {
      const size_t len = std::min(step_, n_ - at);
      lay_down(at, len);
      if (!comm_.meet(wait_)) return give_up(job_);
      if (at == 0 && !agree(job_)) return false;
      if (at == 0) nap(job_);
      take(at, len);
      if (!comm_.meet(wait_)) return give_up(job_);
      at += len;
    } while (at < n_);
    return true;
  }

 private:
  bool is_cut() const { return job_.deed.kind == REDUCE_SCATTER; }
  bool is_root() const { return comm_.rank == job_.deed.root; }

  void lay_down(size_t at, size_t len) {
    char* own = comm_.chunk(comm_.rank);
    if (is_cut()) {
      for (size_t part = 0; part < static_cast<size_t>(comm_.world); ++part) {
        memcpy(own + part * step_ * item_, job_.from + (part * n_ + at) * item_, len * item_);
      }
    } else if (job_.deed.kind != BROADCAST || is_root()) {
      memcpy(own, job_.from + at * item_, len * item_);
    }
  }

  void take(size_t at, size_t len) {
    std::vector<const char*> all;
    const size_t own_part = is_cut() ? static_cast<size_t>(comm_.rank) * step_ * item_ : 0;
    for (int rank = 0; rank < comm_.world; ++rank) all.push_back(comm_.chunk(rank) + own_part);
    char* to = job_.to + at * item_;
    const Deed& deed = job_.deed;
    if (deed.kind == BROADCAST) {
      if (!is_root() || job_.to != job_.from) memcpy(to, all[static_cast<size_t>(deed.root)], len * item_);
    } else if (deed.kind == ALL_GATHER) {
      for (size_t rank = 0; rank < all.size(); ++rank)
        memcpy(job_.to + (rank * n_ + at) * item_, all[rank], len * item_);
    } else if (deed.kind != REDUCE || is_root()) {
      reduce(all, to, len, deed.type, deed.operation);
    }
  }

  const Job& job_;
  const ncclComm& comm_;
  const size_t item_, n_;
  size_t step_;
  Wait wait_;
};

// A send, which ends once it has been received, or a receive.
class Letter {
 public:
  explicit Letter(const Job& job)
      : job_(job),
        comm_(*job.comm),
        total_(static_cast<size_t>(job.deed.count) * size_of(job.deed.type)),
        wait_(job.stream, shown(job)),
        box_(job.is_send ? comm_.letter(comm_.rank, job.peer) : comm_.letter(job.peer, comm_.rank)) {}

  bool run() {
    nap(job_);
    size_t at = 0;
    do {
      const size_t len = std::min(LETTER, total_ - at);
      if (!(job_.is_send ? send(at, len) : receive(at, len))) return false;
      at += len;
    } while (at < total_);
    return !job_.is_send || comm_.await(wait_, box_, false, job_.peer) || give_up(job_);
  }

 private:
  bool send(size_t at, size_t len) {
    if (!comm_.await(wait_, box_, false, job_.peer)) return give_up(job_);
    memcpy(box_.data, job_.from + at, len);
    box_.type = static_cast<uint32_t>(job_.deed.type);
    box_.count = static_cast<uint64_t>(job_.deed.count);
    box_.n_bytes = len;
    comm_.turn(box_, true, job_.peer);
    return true;
  }

  bool receive(size_t at, size_t len) {
    if (!comm_.await(wait_, box_, true, job_.peer)) return give_up(job_);
    if (!is_expected()) return disagree(job_);
    if (at == 0) nap(job_);
    memcpy(job_.to + at, box_.data, len);
    if (at + len == total_ && is_pair("SIMNCCL_CORRUPT", job_.peer, comm_.rank)) job_.to[total_ - 1] ^= 1;
    comm_.turn(box_, false, job_.peer);
    return true;
  }

  bool is_expected() const {
    if (box_.type == static_cast<uint32_t>(job_.deed.type) && box_.count == static_cast<uint64_t>(job_.deed.count))
      return true;
    fprintf(stderr, "simnccl: mismatch on %s: rank %d sent %lu x type %u, rank %d receives %ld x type %ld\n",
            comm_.name, job_.peer, static_cast<unsigned long>(box_.count), box_.type, comm_.rank,
            static_cast<long>(job_.deed.count), static_cast<long>(job_.deed.type));
    return false;
  }

  const Job& job_;
  const ncclComm& comm_;
  const size_t total_;
  Wait wait_;
  Letterbox& box_;
};

inline bool perform_in_order(const Job& job) {
  auto& swap = Swap::one();
  if (swap.is_taken(job)) return true;
  const Job* first = swap.to_precede(job);
  return (first == nullptr || Collective(*first).run()) && Collective(job).run();
}

// The body of a launch; takes the job over.
inline void perform(void* argument) {
  const auto* job = static_cast<Job*>(argument);
  static const bool traces = setting("SIMNCCL_TRACE", 0) != 0;
  const bool is_done = job->deed.kind == POINT_TO_POINT ? Letter(*job).run() : perform_in_order(*job);
  if (traces)
    fprintf(stderr, "simnccl: %d: %s %s\n", getpid(), shown(*job).c_str(), is_done ? "has ended" : "has failed");
  delete job;
}

}  // namespace simnccl
