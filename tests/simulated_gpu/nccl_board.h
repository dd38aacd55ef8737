// What each stream of each process waits for, for others to read: ranks that wait for each other in a circle find it
// out.
//
// A process's board is memory without a name, which others map through /proc. A stream in a collective hangs out which
// ranks have not come; who waits follows these from board to board. A circle seen twice with the same tickets stands
// for ever.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace simnccl {

constexpr int MAX_RANKS = 16;

// A stream of a process, by where its board is.
struct Node {
  int32_t pid, fd;
  uint64_t stream;
  bool operator==(const Node& other) const { return pid == other.pid && stream == other.stream; }
};

struct Notice {
  // Odd while it is being written.
  std::atomic<uint32_t> version;
  bool is_up;
  uint64_t stream, ticket;
  // The ticket of a wait that has been answered, whether or not the one who waited has run since.
  std::atomic<uint64_t> answered;
  // "rank 1 in all-reduce 7 of 0123abcd".
  char text[160];
  int32_t n_missing;
  Node missing[MAX_RANKS];
};

struct Board {
  static constexpr int N = 64;
  Notice notices[N];
};

inline Board* map_board(int fd) {
  void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<Board*>(memory);
}

// This process's.
class Boards {
 public:
  static Boards& here() {
    static auto* one = new Boards;
    return *one;
  }

  Node node(const void* stream) const {
    return {static_cast<int32_t>(getpid()), fd_, reinterpret_cast<uint64_t>(stream)};
  }

  // Says what the stream waits for; `text` stays as it is while the ticket does.
  void put_up(const void* stream, uint64_t ticket, const std::string& text, const std::vector<Node>& missing) {
    std::lock_guard<std::mutex> lock(m_);
    auto* notice = of(stream);
    if (notice == nullptr) return;
    notice->version.fetch_add(1);
    notice->is_up = true;
    notice->ticket = ticket;
    snprintf(notice->text, sizeof notice->text, "%s", text.c_str());
    notice->n_missing = static_cast<int32_t>(missing.size());
    std::copy(missing.begin(), missing.end(), notice->missing);
    notice->version.fetch_add(1);
  }

  void take_down(const void* stream) {
    std::lock_guard<std::mutex> lock(m_);
    auto* notice = of(stream);
    if (notice == nullptr) return;
    notice->version.fetch_add(1);
    notice->is_up = false;
    notice->version.fetch_add(1);
  }

  // Says that a stream, maybe of another process, no longer waits: it has what it waited for.
  void answer(const Node& node, uint64_t ticket) {
    std::lock_guard<std::mutex> lock(m_);
    auto* notice = ticket == 0 ? nullptr : find(node);
    if (notice != nullptr) notice->answered.store(ticket);
  }

  // The texts of those who wait for each other, from `own` on around; empty where there is no such circle.
  // `tickets` identify the waits.
  std::vector<std::string> circle(const Node& own, std::vector<uint64_t>& tickets) {
    std::lock_guard<std::mutex> lock(m_);
    std::vector<Node> path;
    std::vector<std::string> texts;
    tickets.clear();
    return leads_back(own, own, path, texts, tickets) ? texts : std::vector<std::string>();
  }

 private:
  Boards() : fd_(memfd_create("simnccl", MFD_CLOEXEC)) {
    if (fd_ >= 0 && ftruncate(fd_, sizeof(Board)) == 0) own_ = map_board(fd_);
  }

  Notice* of(const void* stream) {
    if (own_ == nullptr || stream == nullptr) return nullptr;
    const auto key = reinterpret_cast<uint64_t>(stream);
    for (auto& notice : own_->notices) {
      if (notice.stream == key || notice.stream == 0) {
        notice.stream = key;
        return &notice;
      }
    }
    return nullptr;
  }

  Board* board_of(const Node& node) {
    if (node.pid == getpid()) return own_;
    auto [found, is_new] = others_.try_emplace({node.pid, node.fd}, nullptr);
    if (is_new) {
      char path[64];
      snprintf(path, sizeof path, "/proc/%d/fd/%d", node.pid, node.fd);
      const int fd = open(path, O_RDWR | O_CLOEXEC);
      if (fd >= 0) found->second = map_board(fd);
      if (fd >= 0) close(fd);
    }
    return found->second;
  }

  Notice* find(const Node& node) {
    auto* board = node.stream == 0 ? nullptr : board_of(node);
    for (int i = 0; board != nullptr && i < Board::N; ++i) {
      if (board->notices[i].stream == node.stream) return &board->notices[i];
    }
    return nullptr;
  }

  // A consistent copy of what a stream waits for.
  bool read(const Node& node, Notice& copy) {
    auto* notice = find(node);
    if (notice == nullptr) return false;
    const uint32_t before = notice->version.load();
    memcpy(static_cast<void*>(&copy), static_cast<const void*>(notice), sizeof copy);
    const bool is_whole = before % 2 == 0 && notice->version.load() == before;
    return is_whole && copy.is_up && notice->answered.load() != copy.ticket;
  }

  bool leads_back(const Node& from, const Node& own, std::vector<Node>& path, std::vector<std::string>& texts,
                  std::vector<uint64_t>& tickets) {
    Notice notice;
    if (std::find(path.begin(), path.end(), from) != path.end() || !read(from, notice)) return false;
    path.push_back(from);
    texts.emplace_back(notice.text);
    tickets.push_back(notice.ticket);
    for (int i = 0; i < notice.n_missing; ++i) {
      if (notice.missing[i] == own || leads_back(notice.missing[i], own, path, texts, tickets)) return true;
    }
    texts.pop_back();
    tickets.pop_back();
    return false;
  }

  int fd_;
  Board* own_ = nullptr;
  std::mutex m_;
  std::map<std::pair<int32_t, int32_t>, Board*> others_;
};

}  // namespace simnccl
