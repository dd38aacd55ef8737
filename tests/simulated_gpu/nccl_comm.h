// A communicator: memory that its ranks share, in which they meet, compare what they are about to do, and hand over
// bytes.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "nccl_board.h"

namespace simnccl {

constexpr size_t CHUNK = 1 << 20;
constexpr size_t LETTER = 1 << 18;
// A wait that has lasted so long is looked into.
constexpr long LOOK_AFTER_NS = 200'000'000;

// What a rank is about to do together with the others.
struct Deed {
  int64_t kind, count, type, operation, root, number;
  bool operator==(const Deed& other) const { return memcmp(this, &other, sizeof *this) == 0; }
};

// Bytes on their way from one rank to another.
struct Letterbox {
  std::atomic<uint32_t> is_full;
  // Of the last wait of each side.
  std::atomic<uint64_t> sender_ticket, receiver_ticket;
  uint32_t type;
  uint64_t count, n_bytes;
  char data[LETTER];
};

struct Member {
  char card[128];
  Node node;
  Deed deed;
  // Meetings that it has come to.
  std::atomic<uint64_t> n_meetings;
  // Of its wait in the last.
  std::atomic<uint64_t> ticket;
};

struct Shared {
  std::atomic<uint32_t> arrived, generation;
  Member members[MAX_RANKS];
};

inline void futex_wait(std::atomic<uint32_t>& word, uint32_t while_it_is) {
  timespec limit{0, LOOK_AFTER_NS};
  syscall(SYS_futex, &word, FUTEX_WAIT, while_it_is, &limit, nullptr, 0);
}
inline void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Who waits for whom, while a stream waits; one wait after the other.
class Wait {
 public:
  Wait(const void* stream, std::string text) : stream_(stream), text_(std::move(text)) {}
  ~Wait() { end(); }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

  // Begins a wait; its ticket.
  uint64_t begin() {
    static std::atomic<uint64_t> last{0};
    return ticket_ = ++last;
  }

  void end() {
    if (is_up_) Boards::here().take_down(stream_);
    is_up_ = false;
  }

  // Looks around once it has taken long; true where those who wait make up a circle. It is told then.
  bool is_hopeless(const std::vector<Node>& missing) {
    Boards::here().put_up(stream_, ticket_, text_, missing);
    is_up_ = true;
    std::vector<uint64_t> tickets;
    auto texts = Boards::here().circle(Boards::here().node(stream_), tickets);
    const bool stands = !texts.empty() && tickets == tickets_;
    tickets_ = std::move(tickets);
    if (stands) tell(texts);
    return stands;
  }

 private:
  static void tell(const std::vector<std::string>& texts) {
    std::string line;
    for (const auto& text : texts) line += (line.empty() ? "" : ", which waits for ") + text;
    fprintf(stderr, "simnccl: out of order: %s, which waits for the first\n", line.c_str());
  }

  const void* stream_;
  std::string text_;
  uint64_t ticket_ = 0;
  bool is_up_ = false;
  std::vector<uint64_t> tickets_;
};

}  // namespace simnccl

extern "C" {

struct ncclComm {
  int rank, world, device;
  simnccl::Shared* shared;
  // Of each rank, CHUNK bytes.
  char* chunks;
  // From each to each.
  simnccl::Letterbox* letters;
  int64_t number = 0;
  char name[17];

  char* chunk(int of) const { return chunks + simnccl::CHUNK * static_cast<size_t>(of); }
  simnccl::Letterbox& letter(int from, int to) const { return letters[from * world + to]; }
  simnccl::Member& member(int of) const { return shared->members[of]; }

  // Waits for all ranks; false where that is hopeless.
  bool meet(simnccl::Wait& wait) const {
    member(rank).ticket = wait.begin();
    const uint64_t meeting = ++member(rank).n_meetings;
    const uint32_t now = shared->generation.load();
    if (shared->arrived.fetch_add(1) + 1 == static_cast<uint32_t>(world)) {
      open();
      return true;
    }
    simnccl::futex_wait(shared->generation, now);
    while (shared->generation.load() == now) {
      if (wait.is_hopeless(missing(meeting))) return false;
      simnccl::futex_wait(shared->generation, now);
    }
    wait.end();
    return true;
  }

  // Waits until a letterbox is full, as its receiver, or empty, as its sender.
  bool await(simnccl::Wait& wait, simnccl::Letterbox& box, bool full, int peer) const {
    const uint32_t other = full ? 0 : 1;
    (full ? box.receiver_ticket : box.sender_ticket) = wait.begin();
    if (box.is_full.load() != other) return true;
    simnccl::futex_wait(box.is_full, other);
    while (box.is_full.load() == other) {
      if (wait.is_hopeless({member(peer).node})) return false;
      simnccl::futex_wait(box.is_full, other);
    }
    wait.end();
    return true;
  }

  // Turns a letterbox full, as its sender, or empty.
  void turn(simnccl::Letterbox& box, bool full, int peer) const {
    simnccl::Boards::here().answer(member(peer).node, full ? box.receiver_ticket : box.sender_ticket);
    box.is_full.store(full ? 1 : 0);
    simnccl::futex_wake(box.is_full);
  }

 private:
  // The last to come lets all go on.
  void open() const {
    for (int other = 0; other < world; ++other) {
      if (other != rank) simnccl::Boards::here().answer(member(other).node, member(other).ticket);
    }
    shared->arrived.store(0);
    shared->generation.fetch_add(1);
    simnccl::futex_wake(shared->generation);
  }

  std::vector<simnccl::Node> missing(uint64_t meeting) const {
    std::vector<simnccl::Node> result;
    for (int other = 0; other < world; ++other) {
      if (member(other).n_meetings.load() < meeting) result.push_back(member(other).node);
    }
    return result;
  }
};
}

namespace simnccl {

// Maps the memory of a communicator of `world` ranks; null where that can't be.
inline ncclComm* map_communicator(const std::string& path, int world) {
  const size_t head = (sizeof(Shared) + 4095) / 4096 * 4096;
  const auto n = static_cast<size_t>(world);
  const size_t size = head + n * CHUNK + n * n * sizeof(Letterbox);
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return nullptr;
  void* memory = ftruncate(fd, static_cast<off_t>(size)) != 0
                     ? MAP_FAILED
                     : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) return nullptr;
  auto* comm = new ncclComm{};
  comm->shared = static_cast<Shared*>(memory);
  comm->chunks = static_cast<char*>(memory) + head;
  comm->letters = reinterpret_cast<Letterbox*>(comm->chunks + n * CHUNK);
  return comm;
}

}  // namespace simnccl
