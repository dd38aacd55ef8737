// An NCCL between processes over shared memory; its operations run on the streams of the simulated CUDA.
//
// What all ranks of a communicator do together is compared before any data is used, sends wait for their receive, and
// ranks that wait for each other over several communicators are told (nccl_board.h).

#include <sys/random.h>

#include "nccl_work.h"

extern "C" {
struct ncclUniqueId {
  char internal[128];
};
}

namespace simnccl {
namespace {

enum Result { SUCCESS = 0, UNHANDLED_CUDA_ERROR = 1, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };

constexpr char PREFIX[] = "simnccl-";

// What an operation reads and writes of this rank's memory.
std::vector<SimgpuBuffer> buffers(const Job& job) {
  const size_t n_bytes = static_cast<size_t>(job.deed.count) * size_of(job.deed.type);
  const size_t all_bytes = n_bytes * static_cast<size_t>(job.comm->world);
  const bool is_root = job.comm->rank == job.deed.root;
  const SimgpuBuffer reads{job.from, n_bytes, false}, writes{job.to, n_bytes, true};
  switch (job.deed.kind) {
    case POINT_TO_POINT: return {job.is_send ? reads : writes};
    case REDUCE_SCATTER: return {{job.from, all_bytes, false}, writes};
    case ALL_GATHER: return {reads, {job.to, all_bytes, true}};
    case BROADCAST: return {is_root && job.from == job.to ? reads : writes};
    case REDUCE: return is_root ? std::vector<SimgpuBuffer>{reads, writes} : std::vector<SimgpuBuffer>{reads};
    default: return {reads, writes};
  }
}

std::string name_of(const Job& job) {
  if (job.deed.kind == POINT_TO_POINT) return job.is_send ? "nccl send" : "nccl receive";
  return std::string("nccl ") + NAMES[job.deed.kind] + " " + std::to_string(job.deed.number);
}

int start(const Job& job) {
  static const auto launch = of_cuda<decltype(&simgpu_launch)>("simgpu_launch");
  job.comm->member(job.comm->rank).node = Boards::here().node(job.stream);
  const auto touched = buffers(job);
  const auto name = name_of(job);
  auto* own = new Job(job);
  Swap::one().add(own);
  const SimgpuLaunch what{name.c_str(), job.deed.kind == POINT_TO_POINT, touched.data(), touched.size(), &perform, own};
  if (launch(job.stream, &what) == 0) return SUCCESS;
  Swap::one().remove(own);
  delete own;
  return UNHANDLED_CUDA_ERROR;
}

bool is_launchable(const Job& job) {
  return job.comm != nullptr && (job.deed.count == 0 || size_of(job.deed.type) != 0);
}

int together(ncclComm* comm, Kind kind, const void* from, void* to, size_t count, int type, int operation, int root,
             void* stream) {
  const Deed deed{kind, static_cast<int64_t>(count), type, operation, root, comm == nullptr ? 0 : comm->number};
  const Job job{comm, deed, static_cast<const char*>(from), static_cast<char*>(to), 0, false, stream};
  if (!is_launchable(job)) return INVALID_ARGUMENT;
  ++comm->number;
  if (is_pair("SIMNCCL_SKIP", comm->rank, deed.number)) return SUCCESS;
  return start(job);
}

int letter(ncclComm* comm, const void* from, void* to, size_t count, int type, int peer, void* stream) {
  const Deed deed{POINT_TO_POINT, static_cast<int64_t>(count), type, 0, 0, 0};
  const Job job{comm, deed, static_cast<const char*>(from), static_cast<char*>(to), peer, from != nullptr, stream};
  return is_launchable(job) ? start(job) : INVALID_ARGUMENT;
}

// Which card a device of this process is: its entry of CUDA_VISIBLE_DEVICES.
std::string card_of(int device) {
  std::string visible = simgpu::word("CUDA_VISIBLE_DEVICES");
  if (visible.empty()) return std::to_string(device);
  for (; device > 0 && visible.find(',') != std::string::npos; --device) visible.erase(0, visible.find(',') + 1);
  return visible.substr(0, visible.find(','));
}

bool has_card_alone(const ncclComm& comm) {
  for (int other = 0; other < comm.world; ++other) {
    if (other == comm.rank || strcmp(comm.member(other).card, comm.member(comm.rank).card) != 0) continue;
    fprintf(stderr, "simnccl: duplicate GPU: ranks %d and %d both on %s\n", comm.rank, other, comm.member(other).card);
    return false;
  }
  return true;
}

int join(ncclComm** out, int world, const ncclUniqueId& id, int rank) {
  const size_t skip = strlen(PREFIX);
  if (rank < 0 || rank >= world || world > MAX_RANKS || strncmp(id.internal, PREFIX, skip) != 0)
    return INVALID_ARGUMENT;
  const std::string path = std::string("/dev/shm/") + id.internal;
  auto* comm = map_communicator(path, world);
  if (comm == nullptr) return SYSTEM_ERROR;
  comm->rank = rank;
  comm->world = world;
  comm->device = of_cuda<decltype(&simgpu_current_device)>("simgpu_current_device")();
  snprintf(comm->name, sizeof comm->name, "%.16s", id.internal + skip);
  snprintf(comm->member(rank).card, sizeof comm->member(rank).card, "%s", card_of(comm->device).c_str());
  Wait wait(nullptr, "rank " + std::to_string(rank) + " in the joining of communicator " + comm->name);
  comm->meet(wait);
  if (rank == 0) unlink(path.c_str());
  if (!has_card_alone(*comm)) return INVALID_USAGE;
  *out = comm;
  return SUCCESS;
}

}  // namespace
}  // namespace simnccl

using namespace simnccl;

extern "C" {

int ncclGetVersion(int* version) { return *version = 22809, SUCCESS; }
const char* ncclGetErrorString(int) { return "an error of the simulated NCCL"; }
const char* ncclGetLastError(ncclComm*) { return ""; }

int ncclGetUniqueId(ncclUniqueId* id) {
  unsigned long words[2];
  if (getrandom(words, sizeof words, 0) != sizeof words) return SYSTEM_ERROR;
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "%s%016lx%016lx", PREFIX, words[0], words[1]);
  return SUCCESS;
}

int ncclCommInitRank(ncclComm** out, int world, ncclUniqueId id, int rank) { return join(out, world, id, rank); }
int ncclCommInitRankConfig(ncclComm** out, int world, ncclUniqueId id, int rank, void*) {
  return join(out, world, id, rank);
}
int ncclCommDestroy(ncclComm*) { return SUCCESS; }
int ncclCommFinalize(ncclComm*) { return SUCCESS; }
int ncclCommAbort(ncclComm*) { return SUCCESS; }
int ncclCommGetAsyncError(ncclComm*, int* error) { return *error = SUCCESS, SUCCESS; }
int ncclCommCount(ncclComm* comm, int* n) { return *n = comm->world, SUCCESS; }
int ncclCommUserRank(ncclComm* comm, int* rank) { return *rank = comm->rank, SUCCESS; }
int ncclCommCuDevice(ncclComm* comm, int* device) { return *device = comm->device, SUCCESS; }
int ncclGroupStart() { return SUCCESS; }
int ncclGroupEnd() { return SUCCESS; }

int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, ncclComm* comm, void* stream) {
  return together(comm, ALL_REDUCE, from, to, count, type, op, 0, stream);
}
int ncclReduce(const void* from, void* to, size_t count, int type, int op, int root, ncclComm* comm, void* stream) {
  return together(comm, REDUCE, from, to, count, type, op, root, stream);
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, ncclComm* comm, void* stream) {
  return together(comm, BROADCAST, from, to, count, type, 0, root, stream);
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, ncclComm* comm, void* stream) {
  return together(comm, REDUCE_SCATTER, from, to, count, type, op, 0, stream);
}
int ncclAllGather(const void* from, void* to, size_t count, int type, ncclComm* comm, void* stream) {
  return together(comm, ALL_GATHER, from, to, count, type, 0, 0, stream);
}
int ncclSend(const void* from, size_t count, int type, int peer, ncclComm* comm, void* stream) {
  return letter(comm, from, nullptr, count, type, peer, stream);
}
int ncclRecv(void* to, size_t count, int type, int peer, ncclComm* comm, void* stream) {
  return letter(comm, nullptr, to, count, type, peer, stream);
}
}
