// What libtorch asks of CUDA by name: how many devices, pinned memory, generators.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "allocator.h"
#include "streams.h"

namespace at {

// libtorch finds the class by this name.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return simgpu::n_devices() > 0; }
  bool hasCUDA() const override { return isAvailable(); }
  bool hasCUDART() const override { return true; }
  long versionCUDART() const override { return 13000; }
  std::string showConfig() const override { return "simulated GPUs, which compute on the CPU"; }

  bool hasPrimaryContext(DeviceIndex device) const override { return simgpu::gpu(device).is_used; }
  int getNumGPUs() const override { return simgpu::n_devices(); }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(simgpu::n_devices()); }
  DeviceIndex current_device() const override { return static_cast<DeviceIndex>(simgpu::current_device()); }
  DeviceIndex getCurrentDevice() const override { return current_device(); }
  void setCurrentDevice(DeviceIndex device) const override { simgpu::set_current_device(device); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    const auto before = current_device();
    simgpu::set_current_device(device);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  void deviceSynchronize(DeviceIndex device) const override {
    c10::impl::getDeviceGuardImpl(at::kCUDA)->synchronizeDevice(device);
  }

  Allocator* getCUDADeviceAllocator() const override { return &simgpu::allocator(); }
  Allocator* getPinnedMemoryAllocator() const override { return &simgpu::pinned_allocator(); }
  bool isPinnedPtr(const void* data) const override { return simgpu::is_pinned(data); }
  Device getDeviceFromPtr(void*) const override { return {at::kCUDA, current_device()}; }

  const Generator& getDefaultGenerator(DeviceIndex = -1) const override { return at::detail::getDefaultCPUGenerator(); }
  Generator getNewGenerator(DeviceIndex = -1) const override { return at::detail::createCPUGenerator(); }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
