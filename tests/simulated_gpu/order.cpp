// The checker's clocks, and who touched which bytes last (order.h says how it judges).

#include "order.h"

#include <algorithm>
#include <mutex>

#include "settings.h"

namespace simgpu::order {
namespace {

// A launch, for the message and for comparison: the `count`th of its stream, the `number`th of all.
struct Launch {
  StreamKey stream;
  uint64_t count;
  uint64_t number;
  std::string name;
};
using LaunchPtr = std::shared_ptr<const Launch>;

// Bytes up to `end` that have been touched alike: the last write, and the last read since on each stream.
struct Piece {
  const char* end;
  LaunchPtr write;
  std::vector<LaunchPtr> reads;
};

struct State {
  std::mutex m;
  uint64_t number = 0;
  std::map<StreamKey, Clock> streams;
  Clock host;
  std::map<const char*, Piece> pieces;
};

State& state() {
  static auto* all = new State;
  return *all;
}

void join(Clock& clock, const Clock& other) {
  for (const auto& [stream, count] : other) {
    auto& own = clock[stream];
    own = std::max(own, count);
  }
}

bool knows(const Clock& clock, const Launch& launch) {
  auto found = clock.find(launch.stream);
  return found != clock.end() && found->second >= launch.count;
}

// Lets a piece begin at `at` where one lies over it.
void cut(std::map<const char*, Piece>& pieces, const char* at) {
  auto after = pieces.upper_bound(at);
  if (after == pieces.begin()) return;
  auto& [begin, piece] = *std::prev(after);
  if (begin == at || piece.end <= at) return;
  Piece rest = piece;
  piece.end = at;
  pieces.emplace(at, std::move(rest));
}

// Calls `visit` for every piece of the range; where nobody has been yet, pieces are made.
template <typename Visit>
void each_piece(const char* begin, const char* end, Visit visit) {
  auto& pieces = state().pieces;
  cut(pieces, begin);
  cut(pieces, end);
  auto next = pieces.lower_bound(begin);
  for (const char* at = begin; at < end;) {
    if (next == pieces.end() || next->first > at) {
      const char* until = next == pieces.end() ? end : std::min(end, next->first);
      next = pieces.emplace_hint(next, at, Piece{until, nullptr, {}});
    }
    visit(next->second);
    at = next->second.end;
    ++next;
  }
}

std::string place(const StreamKey& stream) {
  return "stream " + std::to_string(stream.id) + " of device " + std::to_string(stream.device);
}

std::string shown(const Launch& launch) {
  return launch.name + " (launch " + std::to_string(launch.number) + ", " + place(launch.stream) + ")";
}

// Finds the last of the launches that an access is not ordered after.
class Judge {
 public:
  explicit Judge(const Clock& clock) : clock_(clock) {}

  void compare(const Accesses& accesses) {
    for (const auto& access : accesses) {
      each_piece(access.begin, access.begin + access.n_bytes, [&](const Piece& piece) { compare(piece, access); });
    }
  }

  Finding finding(const std::string& later) const {
    if (earlier_ == nullptr) return std::nullopt;
    char memory[64];
    snprintf(memory, sizeof memory, "%zu bytes at %p", access_.n_bytes, static_cast<const void*>(access_.begin));
    return later + (access_.is_write ? " writes" : " reads") + " what " + shown(*earlier_) +
           (wrote_ ? " writes" : " reads") + ", and nothing orders them (" + memory + ")";
  }

 private:
  void compare(const Piece& piece, const Access& access) {
    compare(piece.write, true, access);
    for (const auto& read : piece.reads) {
      if (access.is_write) compare(read, false, access);
    }
  }

  void compare(const LaunchPtr& earlier, bool wrote, const Access& access) {
    if (earlier == nullptr || knows(clock_, *earlier)) return;
    if (earlier_ != nullptr && (earlier_->number > earlier->number || (earlier_ == earlier && wrote_))) return;
    earlier_ = earlier;
    wrote_ = wrote;
    access_ = access;
  }

  const Clock& clock_;
  LaunchPtr earlier_;
  bool wrote_ = false;
  Access access_{};
};

void add_read(Piece& piece, const LaunchPtr& launch) {
  auto same = [&](const LaunchPtr& read) {
    return !(read->stream < launch->stream) && !(launch->stream < read->stream);
  };
  auto found = std::find_if(piece.reads.begin(), piece.reads.end(), same);
  if (found == piece.reads.end()) {
    piece.reads.push_back(launch);
  } else {
    *found = launch;
  }
}

void set_write(const char* begin, const char* end, const LaunchPtr& launch) {
  auto& pieces = state().pieces;
  pieces.erase(pieces.lower_bound(begin), pieces.lower_bound(end));
  pieces.emplace(begin, Piece{end, launch, {}});
}

void note(const Access& access, const LaunchPtr& launch) {
  const char* end = access.begin + access.n_bytes;
  if (access.is_write) return set_write(access.begin, end, launch);
  each_piece(access.begin, end, [&](Piece& piece) {
    if (piece.write != launch) add_read(piece, launch);
  });
}

}  // namespace

bool is_on() {
  static const bool on = setting("SIMGPU_ORDER", 0) != 0;
  return on;
}

Finding launched(StreamKey stream, const std::string& name, const Accesses& accesses) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  auto& clock = all.streams[stream];
  join(clock, all.host);
  auto launch = std::make_shared<const Launch>(Launch{stream, ++clock[stream], ++all.number, name});
  Judge judge(clock);
  judge.compare(accesses);
  for (const auto& access : accesses) note(access, launch);
  return judge.finding(shown(*launch));
}

Finding touched_by_host(const std::string& name, const Accesses& accesses) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  Judge judge(all.host);
  judge.compare(accesses);
  return judge.finding(name + " (on the host)");
}

ClockPtr recorded(StreamKey stream) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  auto& clock = all.streams[stream];
  join(clock, all.host);
  return std::make_shared<const Clock>(clock);
}

void waited(StreamKey stream, const ClockPtr& event) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  if (event != nullptr) join(all.streams[stream], *event);
}

void host_waited(const ClockPtr& event) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  if (event != nullptr) join(all.host, *event);
}

void forget(const void* begin, size_t n_bytes) {
  auto& all = state();
  std::lock_guard<std::mutex> lock(all.m);
  const auto* first = static_cast<const char*>(begin);
  cut(all.pieces, first);
  cut(all.pieces, first + n_bytes);
  all.pieces.erase(all.pieces.lower_bound(first), all.pieces.lower_bound(first + n_bytes));
}

}  // namespace simgpu::order
