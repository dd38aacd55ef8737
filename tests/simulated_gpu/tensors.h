// Tensors on a simulated card, as kernels see them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "streams.h"

namespace simgpu {

// The same memory as a CPU tensor that owns nothing: a kernel's pointer argument.
at::Tensor raw(const at::Tensor& tensor);

// Sizes, strides and type of a result.
struct Shape {
  std::vector<int64_t> sizes, strides;
  c10::ScalarType type;
};
Shape shape_of(const at::Tensor& tensor);
at::Tensor empty_like_shape(const Shape& shape, int device);

// Declares what a launch touches; costs nothing where the order is not checked.
void touches(Launch& launch, const at::Tensor& tensor, bool is_write);

// A launch that copies one tensor into another, both raw.
void launch_copy(Stream& stream, const std::string& name, const at::Tensor& to, const at::Tensor& from);

}  // namespace simgpu
