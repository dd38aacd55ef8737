// What libtorch offers in C++ and tch does not reach. Every function catches all exceptions and
// returns 0, or 1 with the message in a thread-local string. Only device-generic interfaces are
// used, so that no CUDA headers are needed.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/Allocator.h>
#include <c10/core/AutogradState.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <string>
#include <typeinfo>
#include <vector>

namespace {

thread_local std::string last_error;

template <typename Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception of unknown type";
  }
  return 1;
}

std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t n) {
  std::vector<at::Tensor> result;
  result.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    result.push_back(tensors[i] == nullptr ? at::Tensor() : *tensors[i]);
  }
  return result;
}

std::optional<at::Tensor> optional(at::Tensor* tensor) {
  return tensor == nullptr ? std::nullopt : std::make_optional(*tensor);
}

c10::Stream stream_of(int device, int64_t id) {
  return c10::Stream::unpack3(id, static_cast<c10::DeviceIndex>(device), c10::DeviceType::CUDA);
}

// Bytes of one rank's CPU tensors, whichever thread frees them.
struct Account {
  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0};
};

// What no rank's thread allocated.
Account nobody;
thread_local Account* account = &nobody;

// Stands before each block; as long as libtorch aligns blocks.
struct alignas(64) Header {
  Account* account;
  size_t bytes;
};

class CountingAllocator final : public c10::Allocator {
 public:
  at::DataPtr allocate(size_t n) override {
    auto* block = static_cast<char*>(c10::alloc_cpu(n + sizeof(Header)));
    new (block) Header{account, n};
    auto live = account->live.fetch_add(static_cast<int64_t>(n), std::memory_order_relaxed) + static_cast<int64_t>(n);
    auto peak = account->peak.load(std::memory_order_relaxed);
    while (live > peak && !account->peak.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
    }
    void* data = block + sizeof(Header);
    return {data, data, &CountingAllocator::free, at::Device(at::DeviceType::CPU)};
  }

  at::DeleterFnPtr raw_deleter() const override { return &CountingAllocator::free; }

  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }

 private:
  static void free(void* data) {
    if (data == nullptr) {
      return;
    }
    auto* header = reinterpret_cast<Header*>(static_cast<char*>(data) - sizeof(Header));
    header->account->live.fetch_sub(static_cast<int64_t>(header->bytes), std::memory_order_relaxed);
    c10::free_cpu(header);
  }
};

}  // namespace

extern "C" {

const char* capstan_last_error() { return last_error.c_str(); }

// results[i] is a new tensor, or null where inputs[i] has no path to the outputs.
int capstan_vjp(at::Tensor* const* outputs, size_t n_outputs, at::Tensor* const* grad_outputs,
                at::Tensor* const* inputs, size_t n_inputs, at::Tensor** results) {
  return guarded([&] {
    auto grads = torch::autograd::grad(list(outputs, n_outputs), list(inputs, n_inputs),
                                       list(grad_outputs, n_outputs), /*retain_graph=*/false,
                                       /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < n_inputs; ++i) {
      results[i] = grads[i].defined() ? new at::Tensor(std::move(grads[i])) : nullptr;
    }
  });
}

int capstan_fused_adamw(size_t n, at::Tensor* const* params, at::Tensor* const* grads,
                        at::Tensor* const* exp_avgs, at::Tensor* const* exp_avg_sqs, at::Tensor* step,
                        double lr, double beta1, double beta2, double weight_decay, double eps,
                        at::Tensor* grad_scale, at::Tensor* found_inf) {
  return guarded([&] {
    c10::AutoGradMode no_grad(false);
    std::vector<at::Tensor> steps(n, *step);
    at::_fused_adamw_(list(params, n), list(grads, n), list(exp_avgs, n), list(exp_avg_sqs, n), {}, steps, lr,
                      beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
                      optional(grad_scale), optional(found_inf));
  });
}

// The first call on a thread must be the getter: it runs libtorch's lazy initialisation, which
// otherwise overwrites the width later with a process-wide one.
int capstan_enter_rank_thread(int n_threads, int* actual) {
  return guarded([&] {
    at::get_num_threads();
    at::set_num_threads(n_threads);
    c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    *actual = at::get_num_threads();
  });
}

// From then on CPU tensors are counted; blocks made before keep their own deleter.
int capstan_count_cpu_memory() {
  return guarded([] {
    static CountingAllocator counting;
    c10::SetCPUAllocator(&counting, /*priority=*/1);
  });
}

// An account of its own for what the calling thread allocates from now on; it lives as long as the process.
void* capstan_open_account() {
  account = new Account;
  return account;
}

void capstan_read_account(const void* opened, int64_t* live, int64_t* peak) {
  const auto* read = static_cast<const Account*>(opened);
  *live = read->live.load(std::memory_order_relaxed);
  *peak = read->peak.load(std::memory_order_relaxed);
}

int capstan_point_storage(at::Tensor* tensor, void* data) {
  return guarded([&] {
    auto* storage = tensor->storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(c10::DataPtr(data, tensor->device()));
  });
}

int capstan_set_deterministic(int on) {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    at::globalContext().setBenchmarkCuDNN(false);
  });
}

int capstan_allow_tf32(int on) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}

// What stays on is tried in libtorch's own order; the kernel that is written out always is.
int capstan_choose_attention(int cudnn, int fused) {
  return guarded([&] {
    at::globalContext().setSDPUseCuDNN(cudnn != 0);
    at::globalContext().setSDPUseFlash(fused != 0);
    at::globalContext().setSDPUseMemEfficient(fused != 0);
  });
}

// libtorch takes whoever stands in its registry when CUDA is first asked for, for good: the interface itself, which can
// do nothing, where that was nobody.
int capstan_knows_cuda(int* yes) {
  return guarded([&] {
    const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
    *yes = typeid(hooks) != typeid(at::CUDAHooksInterface) ? 1 : 0;
  });
}

int capstan_set_device(int device) {
  return guarded([&] { at::accelerator::setDeviceIndex(static_cast<c10::DeviceIndex>(device)); });
}

int capstan_synchronize(int device) {
  return guarded([&] { at::accelerator::synchronizeDevice(static_cast<c10::DeviceIndex>(device)); });
}

int capstan_memory_stats(int device, int64_t* allocated, int64_t* reserved, int64_t* peak_allocated) {
  return guarded([&] {
    auto stats = at::accelerator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *allocated = stats.allocated_bytes[0].current;
    *reserved = stats.reserved_bytes[0].current;
    *peak_allocated = stats.allocated_bytes[0].peak;
  });
}

int capstan_memory_refusals(int device, int64_t* refusals) {
  return guarded([&] {
    *refusals = at::accelerator::getDeviceStats(static_cast<c10::DeviceIndex>(device)).num_ooms;
  });
}

int capstan_stream_from_pool(int device, int64_t* id) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl impl(c10::DeviceType::CUDA);
    c10::Device on(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *id = impl.getStreamFromGlobalPool(on, /*isHighPriority=*/false).pack3().stream_id;
  });
}

int capstan_stream_make_current(int device, int64_t id) {
  return guarded([&] { at::accelerator::setCurrentStream(stream_of(device, id)); });
}

int capstan_stream_handle(int device, int64_t id, void** handle) {
  return guarded([&] { *handle = stream_of(device, id).native_handle(); });
}

int capstan_stream_current(int device, int64_t* id) {
  return guarded([&] {
    auto stream = at::accelerator::getCurrentStream(static_cast<c10::DeviceIndex>(device));
    *id = stream.pack3().stream_id;
  });
}

// A flat tensor in host memory that GPUs copy from and to by themselves.
int capstan_pinned(int64_t n, int kind, at::Tensor** result) {
  return guarded([&] {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).pinned_memory(true);
    *result = new at::Tensor(at::empty({n}, options));
  });
}

// The host does not wait; what it copies from or to is pinned.
int capstan_start_copy(at::Tensor* to, at::Tensor* from) {
  return guarded([&] {
    c10::AutoGradMode no_grad(false);
    to->copy_(*from, /*non_blocking=*/true);
  });
}

int capstan_event_new(int timing, void** event) {
  return guarded([&] {
    auto flag = timing != 0 ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT;
    *event = new c10::Event(c10::DeviceType::CUDA, flag);
  });
}

void capstan_event_free(void* event) {
  (void)guarded([&] { delete static_cast<c10::Event*>(event); });
}

int capstan_event_record(void* event, int device, int64_t stream) {
  return guarded([&] { static_cast<c10::Event*>(event)->record(stream_of(device, stream)); });
}

int capstan_event_block(void* event, int device, int64_t stream) {
  return guarded([&] { static_cast<c10::Event*>(event)->block(stream_of(device, stream)); });
}

int capstan_event_synchronize(void* event) {
  return guarded([&] { static_cast<c10::Event*>(event)->synchronize(); });
}

// Milliseconds; both events must be complete and have timing.
int capstan_event_elapsed(void* from, void* to, double* milliseconds) {
  return guarded([&] { *milliseconds = static_cast<c10::Event*>(from)->elapsedTime(*static_cast<c10::Event*>(to)); });
}

}  // extern "C"
