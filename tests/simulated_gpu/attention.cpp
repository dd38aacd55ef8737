// Attention as libtorch chooses it on CUDA, over the CPU's flash kernel.

#include <ATen/Context.h>
#include <ATen/SDPBackend.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace simgpu {
namespace {

using at::Tensor;
using Mask = std::optional<Tensor>;
using Scale = std::optional<double>;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Nine = std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>;

// Flash for 16 bits, else the memory-efficient kernel, which takes no groups; both where they are allowed.
int64_t choice(const Tensor& q, const Tensor&, const Tensor&, const Mask& mask, double dropout, bool, Scale,
               bool is_grouped) {
  const auto& allowed = at::globalContext();
  const auto type = q.scalar_type();
  const bool is_short = type == at::kBFloat16 || type == at::kHalf;
  auto chosen = at::SDPBackend::math;
  if (dropout > 0 || type == at::kDouble || mask) {
    chosen = at::SDPBackend::math;
  } else if (is_short && allowed.userEnabledFlashSDP()) {
    chosen = at::SDPBackend::flash_attention;
  } else if (!is_grouped && allowed.userEnabledMemEfficientSDP()) {
    chosen = at::SDPBackend::efficient_attention;
  }
  return static_cast<int64_t>(chosen);
}

Three backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const Tensor& sums, double dropout, bool is_causal, Scale scale) {
  if (!grad.defined()) return {};
  return at::_scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, sums, dropout, is_causal,
                                                                  std::nullopt, scale);
}

Four efficient(const Tensor& q, const Tensor& k, const Tensor& v, const Mask&, bool, double dropout, bool is_causal,
               Scale scale) {
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, is_causal, std::nullopt, scale);
  auto seed = at::empty({}, q.options().dtype(at::kLong));
  return {out, sums, seed, seed};
}

Four efficient_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor&,
                        const Tensor& out, const Tensor& sums, const Tensor&, const Tensor&, double dropout,
                        std::array<bool, 4>, bool is_causal, Scale scale) {
  auto [dq, dk, dv] = backward(grad, q, k, v, out, sums, dropout, is_causal, scale);
  return {dq, dk, dv, Tensor()};
}

Nine flash(const Tensor& q, const Tensor& k, const Tensor& v, double dropout, bool is_causal, bool, Scale scale) {
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, dropout, is_causal, std::nullopt, scale);
  auto seed = at::empty({}, q.options().dtype(at::kLong));
  return {out, sums, Tensor(), Tensor(), q.sym_size(2), k.sym_size(2), seed, seed, Tensor()};
}

Three flash_backward(const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                     const Tensor& sums, const Tensor&, const Tensor&, c10::SymInt, c10::SymInt, double dropout,
                     bool is_causal, const Tensor&, const Tensor&, Scale scale) {
  return backward(grad, q, k, v, out, sums, dropout, is_causal, scale);
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("_scaled_dot_product_efficient_attention", &efficient);
  m.impl("_scaled_dot_product_efficient_attention_backward", &efficient_backward);
  m.impl("_scaled_dot_product_flash_attention", &flash);
  m.impl("_scaled_dot_product_flash_attention_backward", &flash_backward);
}

struct Registered {
  Registered() { at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choice); }
} registered;

}  // namespace
}  // namespace simgpu
