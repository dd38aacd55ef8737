// Where the order is checked: operators on the host that touch pinned memory come after the copies from and into it.

// As libtorch was built: the record of a call has further members otherwise.
#ifndef NDEBUG
#define NDEBUG
#endif

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>

#include <unordered_set>

#include "allocator.h"
#include "tensors.h"

namespace simgpu {
namespace {

// These look at sizes alone, or call others that do the reading.
const std::unordered_set<std::string> TOUCH_NOTHING = {"aten::is_pinned",  "aten::item",       "aten::to",
                                                       "aten::_to_copy",   "aten::detach",     "aten::empty_like",
                                                       "aten::pin_memory", "aten::_pin_memory"};

bool is_view(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) return true;
  }
  return false;
}

bool has_tensor_on_card(c10::ArrayRef<const c10::IValue> inputs) {
  for (const auto& value : inputs) {
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_cuda()) return true;
  }
  return false;
}

// What the operator touches of pinned memory.
Launch touched(const c10::FunctionSchema& schema, c10::ArrayRef<const c10::IValue> inputs) {
  Launch what{schema.name(), {}};
  for (size_t i = 0; i < inputs.size() && i < schema.arguments().size(); ++i) {
    if (!inputs[i].isTensor()) continue;
    const auto& tensor = inputs[i].toTensor();
    if (!tensor.defined() || !tensor.is_cpu() || !tensor.has_storage() || !is_pinned(tensor.storage().data())) continue;
    const auto* alias = schema.arguments()[i].alias_info();
    touches(what, tensor, alias != nullptr && alias->isWrite());
  }
  return what;
}

std::unique_ptr<at::ObserverContext> observe(const at::RecordFunction& call) {
  if (is_on_stream()) return nullptr;
  const auto schema = call.operator_schema();
  if (!schema || TOUCH_NOTHING.count(schema->name()) != 0 || is_view(*schema)) return nullptr;
  // What goes to a card declares what it touches there.
  if (has_tensor_on_card(call.inputs())) return nullptr;
  const auto what = touched(*schema, call.inputs());
  if (!what.accesses.empty()) object(current_device(), order::touched_by_host(what.name, what.accesses));
  return nullptr;
}

struct Registered {
  Registered() {
    if (order::is_on())
      at::addGlobalCallback(at::RecordFunctionCallback(&observe).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }
} registered;

}  // namespace
}  // namespace simgpu
