// Empty tensors, views and copies: what libtorch needs of a backend besides kernels.

#include "tensors.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstring>

#include "allocator.h"
#include "counts.h"

namespace simgpu {
namespace {

using c10::DeviceIndex;
using c10::DeviceType;

constexpr c10::DispatchKeySet ON_CUDA(c10::DispatchKey::CUDA);

c10::Device cuda(int device) { return {DeviceType::CUDA, static_cast<DeviceIndex>(device)}; }

int index_of(std::optional<c10::Device> device) {
  return device && device->has_index() ? device->index() : current_device();
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<c10::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(cuda(index_of(device)));
  return at::detail::empty_generic(size, &allocator(), ON_CUDA, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(cuda(index_of(device)));
  return at::detail::empty_strided_generic(size, stride, &allocator(), ON_CUDA, c10::dtype_or_default(dtype));
}

// Moves a storage into a block of at least so many bytes.
void grow(c10::StorageImpl& storage, size_t n_bytes, int device) {
  c10::OptionalDeviceGuard guard(cuda(device));
  auto data = allocator().allocate(n_bytes);
  const auto* from = static_cast<const char*>(storage._mutable_data_ptr_no_checks().get());
  auto* to = static_cast<char*>(data.get());
  if (const size_t n = storage.nbytes(); n > 0) {
    counts::launched(device);
    launch(current_stream(device), {"aten::resize_", {{from, n, false}, {to, n, true}}},
           [to, from, n] { memcpy(to, from, n); });
  }
  storage.set_data_ptr_noswap(std::move(data));
  storage.set_nbytes(n_bytes);
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  auto& storage = *impl->unsafe_storage().unsafeGetStorageImpl();
  const auto offset = static_cast<size_t>(self.storage_offset());
  const size_t n_bytes = at::detail::computeStorageNbytesContiguous(size, self.element_size(), offset);
  if (n_bytes > storage.nbytes()) grow(storage, n_bytes, self.get_device());
  impl->set_sizes_contiguous(size);
  const bool has_format = format && *format != at::MemoryFormat::Preserve && *format != at::MemoryFormat::Contiguous;
  if (has_format) impl->empty_tensor_restride(*format);
  return self;
}

// Lets `stream` wait for what `before` was given so far.
void follow(Stream& stream, Stream& before) {
  if (&stream != &before) stream.wait_for(before.mark());
}

void copy_on_cards(const at::Tensor& to, const at::Tensor& from) {
  auto &source = current_stream(from.get_device()), &target = current_stream(to.get_device());
  const bool is_between_cards = to.get_device() != from.get_device();
  counts::launched(from.get_device());
  if (is_between_cards) follow(source, target);
  launch_copy(source, "aten::copy_", raw(to), raw(from));
  if (is_between_cards) follow(target, source);
}

void copy_to_card(const at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  const int device = to.get_device();
  auto& stream = current_stream(device);
  const bool is_from_pinned = is_pinned(from.const_data_ptr());
  counts::copied_to_device(device, is_from_pinned, from.nbytes());
  if (is_from_pinned) {
    launch_copy(stream, "aten::copy_ from pinned memory", raw(to), raw(from));
    pinned_is_used(from.const_data_ptr(), stream);
  } else {
    // Staged before the call returns.
    Launch what{"aten::copy_ from the host", {}};
    touches(what, to, true);
    launch(stream, std::move(what), [to = raw(to), from = from.detach().clone()]() mutable { to.copy_(from); });
  }
  if (non_blocking) return;
  counts::waited(device, "copy to the device");
  synchronize(stream);
}

void copy_to_host(const at::Tensor& to, const at::Tensor& from, bool non_blocking) {
  const int device = from.get_device();
  auto& stream = current_stream(device);
  const bool is_to_pinned = is_pinned(to.const_data_ptr());
  counts::copied_to_host(device, is_to_pinned, from.nbytes());
  if (is_to_pinned) ++stream.n_copies;
  launch_copy(stream, is_to_pinned ? "aten::copy_ into pinned memory" : "aten::copy_ to the host", raw(to), raw(from));
  if (is_to_pinned) pinned_is_used(to.const_data_ptr(), stream);
  if (is_to_pinned && non_blocking) return counts::step(device);
  counts::waited(device, "copy to the host");
  synchronize(stream);
  if (is_to_pinned) stream.n_seen_copies = stream.n_copies.load();
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.is_same(source) || self.numel() == 0) return self;
  const at::Tensor from = source.sizes() == self.sizes() ? source : source.expand(self.sizes());
  if (self.is_cuda() && from.is_cuda()) {
    copy_on_cards(self, from);
  } else if (self.is_cuda()) {
    copy_to_card(self, from, non_blocking);
  } else {
    copy_to_host(self, from, non_blocking);
  }
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  at::Tensor target = to;
  return copy(target, self, non_blocking);
}

at::Scalar local_scalar(const at::Tensor& self) {
  const int device = self.get_device();
  auto& stream = current_stream(device);
  counts::waited(device, "aten::_local_scalar_dense");
  counts::copied_to_host(device, false, self.nbytes());
  Launch what{"aten::_local_scalar_dense", {}};
  touches(what, self, false);
  launch(stream, std::move(what), [] {});
  synchronize(stream);
  return at::_local_scalar_dense(raw(self));
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  allocator().recordStream(self.storage().data_ptr(), stream);
}

at::Tensor as_strided(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

at::Tensor view(const at::Tensor& self, c10::IntArrayRef size) { return at::native::view(self, size); }

at::Tensor reshape_alias(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  return at::native::unfold(self, dimension, size, step);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_and_strides(size, stride, offset);
  return self;
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("unfold", &unfold);
  m.impl("resize_", &resize);
  m.impl("copy_", &copy);
  m.impl("_copy_from", &copy_from);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("record_stream", &record_stream);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

}  // namespace

at::Tensor raw(const at::Tensor& tensor) {
  auto* from = tensor.unsafeGetTensorImpl();
  const auto& storage = from->unsafe_storage();
  void* base = storage.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks().get();
  c10::DataPtr borrowed(base, c10::Device(DeviceType::CPU));
  c10::Storage own(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(borrowed), nullptr, false);
  const c10::DispatchKeySet on_cpu(c10::DispatchKey::CPU);
  auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(own), on_cpu, from->dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(from->sizes(), from->strides(), from->storage_offset());
  return result;
}

Shape shape_of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), tensor.strides().vec(), tensor.scalar_type()};
}

at::Tensor empty_like_shape(const Shape& shape, int device) {
  c10::OptionalDeviceGuard guard(cuda(device));
  return at::detail::empty_strided_generic(shape.sizes, shape.strides, &allocator(), ON_CUDA, shape.type);
}

void touches(Launch& launch, const at::Tensor& tensor, bool is_write) {
  if (!order::is_on() || !tensor.defined() || tensor.numel() == 0) return;
  const auto* base = static_cast<const char*>(tensor.unsafeGetTensorImpl()->unsafe_storage().data());
  if (base == nullptr) return;
  int64_t n_items = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) n_items += (tensor.size(dim) - 1) * tensor.stride(dim);
  const auto item = tensor.element_size();
  launch.accesses.push_back(
      {base + tensor.storage_offset() * static_cast<int64_t>(item), static_cast<size_t>(n_items) * item, is_write});
}

void launch_copy(Stream& stream, const std::string& name, const at::Tensor& to, const at::Tensor& from) {
  Launch what{name, {}};
  touches(what, to, true);
  touches(what, from, false);
  launch(stream, std::move(what), [to = raw(to), from = raw(from)]() mutable { to.copy_(from); });
}

}  // namespace simgpu
