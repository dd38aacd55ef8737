// The fault that SIMNCCL_SWAP plants: collectives of two communicators in the other order on one rank.
//
// A collective that is meant lets the stream wait a moment for others to be launched behind it. Where one of another
// communicator with two ranks in common comes before the next of its own, that is performed first; otherwise nothing is
// changed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "nccl_job.h"

namespace simnccl {

constexpr auto MOMENT = std::chrono::milliseconds(50);

// Two communicators with two ranks in common: there their collectives must be started in the same order.
inline bool must_keep_order(const ncclComm& one, const ncclComm& other) {
  int n_common = 0;
  for (int a = 0; a < one.world; ++a) {
    for (int b = 0; b < other.world; ++b) n_common += strcmp(one.member(a).card, other.member(b).card) == 0;
  }
  return &one != &other && n_common >= 2;
}

class Swap {
 public:
  static Swap& one() {
    static auto* swap = new Swap;
    return *swap;
  }

  // Takes note of what is launched.
  void add(const Job* job) {
    if (!is_planted_ || job->deed.kind == POINT_TO_POINT) return;
    std::lock_guard<std::mutex> lock(m_);
    waiting_.push_back(job);
    launched_.notify_all();
  }

  void remove(const Job* job) {
    if (!is_planted_) return;
    std::lock_guard<std::mutex> lock(m_);
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), job), waiting_.end());
  }

  // The collective that is to be performed before this one whose turn it is; null where none is.
  const Job* to_precede(const Job& job) {
    remove(&job);
    if (!is_planted_ || !is_meant(job)) return nullptr;
    std::unique_lock<std::mutex> lock(m_);
    if (taken_ != nullptr) return nullptr;
    launched_.wait_for(lock, MOMENT, [&] { return next(job, true) != nullptr; });
    const Job* behind = next(job, false);
    if (behind == nullptr) return nullptr;
    taken_ = behind;
    fprintf(stderr, "simnccl: %s is started after %s\n", shown(job).c_str(), shown(*behind).c_str());
    return behind;
  }

  // Whether it has been performed already.
  bool is_taken(const Job& job) {
    std::lock_guard<std::mutex> lock(m_);
    return &job == taken_;
  }

 private:
  Swap() {
    const char* value = getenv("SIMNCCL_SWAP");
    is_planted_ = value != nullptr && sscanf(value, "%ld:%ld", &rank_, &number_) == 2;
  }

  bool is_meant(const Job& job) const { return job.comm->rank == rank_ && job.deed.number >= number_; }

  // The first collective behind this one with which it must keep its order, if no other of its own communicator comes
  // before; that one counts too where `or_own` says so.
  const Job* next(const Job& job, bool or_own) const {
    for (const Job* other : waiting_) {
      if (other->stream != job.stream) continue;
      if (other->comm == job.comm) return or_own ? other : nullptr;
      if (must_keep_order(*job.comm, *other->comm)) return other;
    }
    return nullptr;
  }

  bool is_planted_;
  long rank_ = 0, number_ = 0;
  std::mutex m_;
  std::condition_variable launched_;
  // Collectives that have been launched and not begun.
  std::deque<const Job*> waiting_;
  const Job* taken_ = nullptr;
};

}  // namespace simnccl
