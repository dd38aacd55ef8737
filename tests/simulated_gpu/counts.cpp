// Counters by card, and the lines they become.

#include "counts.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <map>
#include <mutex>

#include "settings.h"
#include "streams.h"

namespace simgpu::counts {
namespace {

struct Counts {
  long launches = 0, learnt = 0, collectives = 0, links = 0;
  size_t to_device_pinned = 0, to_device_pageable = 0, to_host_pinned = 0, to_host_pageable = 0;
  std::map<std::string, long> waits;
};

struct Book {
  const std::string path = word("SIMGPU_COUNTS");
  std::mutex m;
  std::array<Counts, MAX_DEVICES> of;
  std::array<long, MAX_DEVICES> steps{};
};

Book& book() {
  static auto* one = new Book;
  return *one;
}

template <typename Change>
void count(int device, Change change) {
  auto& all = book();
  if (all.path.empty()) return;
  std::lock_guard<std::mutex> lock(all.m);
  change(all.of[static_cast<size_t>(device)]);
}

std::string number(const char* name, size_t value) { return std::string("\"") + name + "\":" + std::to_string(value); }

std::string line(const Counts& counts, int device, long step) {
  std::string waits;
  for (const auto& [kind, n] : counts.waits) waits += (waits.empty() ? "\"" : ",\"") + kind + "\":" + std::to_string(n);
  return "{" + number("pid", static_cast<size_t>(getpid())) + "," + number("device", static_cast<size_t>(device)) +
         "," + number("step", static_cast<size_t>(step)) + "," +
         number("launches", static_cast<size_t>(counts.launches)) + "," +
         number("learnt", static_cast<size_t>(counts.learnt)) + "," +
         number("collectives", static_cast<size_t>(counts.collectives)) + "," +
         number("sends_and_receives", static_cast<size_t>(counts.links)) + ",\"waits\":{" + waits + "}," +
         number("to_device_pinned_bytes", counts.to_device_pinned) + "," +
         number("to_device_pageable_bytes", counts.to_device_pageable) + "," +
         number("to_host_pinned_bytes", counts.to_host_pinned) + "," +
         number("to_host_pageable_bytes", counts.to_host_pageable) + "}\n";
}

// In one write, so that lines of several processes do not mix.
void append(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
  const bool is_written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!is_written) fprintf(stderr, "simgpu: can't write to SIMGPU_COUNTS (%s)\n", path.c_str());
  if (fd >= 0) close(fd);
}

}  // namespace

void launched(int device) {
  count(device, [](Counts& counts) { ++counts.launches; });
}

void learnt(int device) {
  count(device, [](Counts& counts) { ++counts.learnt; });
}

void waited(int device, const std::string& kind) {
  count(device, [&](Counts& counts) { ++counts.waits[kind]; });
}

void copied_to_device(int device, bool is_pinned, size_t n_bytes) {
  count(device, [&](Counts& counts) { (is_pinned ? counts.to_device_pinned : counts.to_device_pageable) += n_bytes; });
}

void copied_to_host(int device, bool is_pinned, size_t n_bytes) {
  count(device, [&](Counts& counts) { (is_pinned ? counts.to_host_pinned : counts.to_host_pageable) += n_bytes; });
}

void collective(int device) {
  count(device, [](Counts& counts) { ++counts.collectives; });
}

void link(int device) {
  count(device, [](Counts& counts) { ++counts.links; });
}

void step(int device) {
  auto& all = book();
  if (all.path.empty()) return;
  std::lock_guard<std::mutex> lock(all.m);
  auto& counts = all.of[static_cast<size_t>(device)];
  append(all.path, line(counts, device, ++all.steps[static_cast<size_t>(device)]));
  counts = Counts{};
}

}  // namespace simgpu::counts
