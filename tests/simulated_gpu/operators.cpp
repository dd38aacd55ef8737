// Kernels: every other operator runs on the stream's thread, by libtorch's own CPU kernel over the same memory.
//
// The host only finds out shapes. Structured operators arrive with their results allocated; of others the shapes are
// learnt from one call for which the host waits, and remembered. Closures hold raw pointers, as kernels do, so that
// memory that is handed out too early, or an event that nobody waits for, gives wrong numbers here too.

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "counts.h"
#include "tensors.h"

namespace simgpu {
namespace {

// For the results of these the host has to wait on a card too.
const std::unordered_set<std::string> DEPEND_ON_DATA = {
    "aten::nonzero",  "aten::masked_select", "aten::_unique2",   "aten::unique_dim",     "aten::unique_consecutive",
    "aten::bincount", "aten::equal",         "aten::is_nonzero", "aten::nonzero_static", "aten::repeat_interleave"};

// A mask among indices is turned into numbers first.
bool is_mask(const at::Tensor& index) {
  return index.defined() && (index.scalar_type() == at::kBool || index.scalar_type() == at::kByte);
}

// What determines the shapes of a call's results, as bytes.
class Key {
 public:
  explicit Key(std::string name) : text_(std::move(name)) {}
  const std::string& text() const { return text_; }

  void add(int64_t number) { text_.append(reinterpret_cast<const char*>(&number), sizeof number); }
  void add(const at::Tensor& tensor) {
    if (!tensor.defined()) return add(-7);
    add(static_cast<int64_t>(tensor.scalar_type()) * 1000 + tensor.dim());
    for (auto size : tensor.sizes()) add(size);
    for (auto stride : tensor.strides()) add(stride);
  }
  // False for what has no such bytes.
  bool add(const c10::IValue& value) {
    if (value.isNone()) return add(-1), true;
    if (value.isInt()) return add(1), add(value.toInt()), true;
    if (value.isBool()) return add(2), add(static_cast<int64_t>(value.toBool())), true;
    if (value.isDouble()) return add(3), add_bits(value.toDouble()), true;
    if (value.isString()) return text_ += value.toStringRef(), add(5), true;
    if (value.isDevice()) return add(6), true;
    if (!value.isIntList() && !value.isBoolList() && !value.isDoubleList()) return false;
    add(4);
    for (const auto& item : value.toListRef()) add(item);
    return true;
  }

 private:
  void add_bits(double number) {
    int64_t bits;
    memcpy(&bits, &number, sizeof bits);
    add(bits);
  }

  std::string text_;
};

// The shapes of an operator's results, by key.
class Memo {
 public:
  std::optional<std::vector<Shape>> find(const std::string& key) {
    std::lock_guard<std::mutex> lock(m_);
    auto found = shapes_.find(key);
    return found == shapes_.end() ? std::nullopt : std::make_optional(found->second);
  }
  void add(const std::string& key, std::vector<Shape> shapes) {
    std::lock_guard<std::mutex> lock(m_);
    shapes_[key] = std::move(shapes);
  }

 private:
  std::mutex m_;
  std::unordered_map<std::string, std::vector<Shape>> shapes_;
};

Memo& memo() {
  static auto* one = new Memo;
  return *one;
}

// The CPU kernel, on the stream's thread.
void compute(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  // libtorch's adapter for several `out` tensors drops the stack before it reads the references that the kernel
  // returned.
  const torch::jit::Stack keep = stack;
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
}

bool is_written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// One call of an operator, on its way to a stream.
class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack& stack)
      : op_(op), schema_(op.schema()), key_(schema_.name() + "." + schema_.overload_name()) {
    const auto n = static_cast<int64_t>(schema_.arguments().size());
    originals_.assign(stack.end() - n, stack.end());
    torch::jit::drop(stack, static_cast<size_t>(n));
    what_.name = schema_.overload_name().empty() ? schema_.name() : schema_.name() + "." + schema_.overload_name();
    is_known_ = DEPEND_ON_DATA.count(schema_.name()) == 0;
    for (size_t i = 0; i < originals_.size(); ++i) read(i);
    read_returns();
    if (device_ < 0) device_ = current_device();
  }

  void run(torch::jit::Stack& stack) {
    if (!is_known_) counts::waited(device_, schema_.name());
    if (!has_new_ && resized_.empty()) {
      in_place();
    } else if (auto shapes = is_known_ ? memo().find(key_.text()) : std::nullopt) {
      into(*shapes);
    } else {
      learn();
    }
    size_t next = 0;
    for (auto i : same_) stack.push_back(i >= 0 ? originals_[static_cast<size_t>(i)] : fresh_[next++]);
  }

 private:
  Stream& stream() const { return current_stream(device_); }

  // Turns an argument into what the CPU kernel takes.
  void read(size_t i) {
    const auto& value = originals_[i];
    const bool writes = is_written(schema_.arguments()[i]);
    if (value.isTensor()) {
      const auto& tensor = value.toTensor();
      if (writes && tensor.defined() && tensor.is_cuda() && tensor.numel() == 0) resized_.push_back(i);
      arguments_.emplace_back(argument(tensor, writes));
    } else if (value.isTensorList()) {
      arguments_.emplace_back(list(value.toTensorVector(), writes));
    } else if (value.isOptionalTensorList()) {
      arguments_.emplace_back(indices(value.toOptionalTensorVector()));
    } else if (value.isDevice()) {
      key_.add(6);
      arguments_.emplace_back(c10::Device(c10::DeviceType::CPU));
    } else {
      is_known_ = key_.add(value) && is_known_;
      arguments_.push_back(value);
    }
  }

  at::Tensor argument(const at::Tensor& tensor, bool writes) {
    key_.add(tensor);
    if (!tensor.defined()) return tensor;
    if (tensor.is_cuda()) {
      if (device_ < 0) device_ = tensor.get_device();
      touches(what_, tensor, writes);
      return raw(tensor);
    }
    // Numbers on the host are read at the launch.
    if (tensor.numel() != 1) return tensor;
    auto number = tensor.detach().clone();
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) number.unsafeGetTensorImpl()->set_wrapped_number(true);
    return number;
  }

  c10::List<at::Tensor> list(const std::vector<at::Tensor>& tensors, bool writes) {
    c10::List<at::Tensor> result;
    for (const auto& tensor : tensors) result.push_back(argument(tensor, writes));
    key_.add(static_cast<int64_t>(result.size()));
    return result;
  }

  c10::List<std::optional<at::Tensor>> indices(const std::vector<std::optional<at::Tensor>>& tensors) {
    c10::List<std::optional<at::Tensor>> result;
    for (const auto& tensor : tensors) {
      key_.add(static_cast<int64_t>(tensor.has_value()));
      if (tensor && is_mask(*tensor)) is_known_ = false;
      result.push_back(tensor ? std::make_optional(argument(*tensor, false)) : std::nullopt);
    }
    return result;
  }

  // Which returns are arguments, and which are new.
  void read_returns() {
    for (const auto& result : schema_.returns()) {
      same_.push_back(argument_of(result));
      if (same_.back() >= 0) continue;
      has_new_ = true;
      is_memorable_ = is_memorable_ && result.type()->kind() == c10::TypeKind::TensorType;
    }
  }

  int64_t argument_of(const c10::Argument& result) const {
    const auto* alias = result.alias_info();
    for (size_t i = 0; alias != nullptr && i < originals_.size(); ++i) {
      const auto& other = schema_.arguments()[i];
      if (is_written(other) && other.alias_info()->beforeSets() == alias->beforeSets()) return static_cast<int64_t>(i);
    }
    return -1;
  }

  void in_place() {
    counts::launched(device_);
    auto body = [op = op_, arguments = std::move(arguments_)]() mutable { compute(op, arguments); };
    launch(stream(), std::move(what_), std::move(body));
    if (!is_known_) synchronize(stream());
  }

  // The results' shapes are known: they are allocated, and the kernel's own results copied into them.
  void into(const std::vector<Shape>& shapes) {
    counts::launched(device_);
    size_t next = 0;
    for (auto i : resized_) {
      auto tensor = originals_[i].toTensor();
      tensor.resize_(shapes[next++].sizes);
      touches(what_, tensor, true);
      arguments_[i] = raw(tensor);
    }
    std::vector<at::Tensor> targets;
    for (auto i : same_) {
      if (i < 0) targets.push_back(result(shapes[next++]));
    }
    auto body = [op = op_, arguments = std::move(arguments_), targets = std::move(targets), same = same_]() mutable {
      compute(op, arguments);
      size_t next = 0;
      for (size_t r = 0; r < same.size(); ++r) {
        if (same[r] >= 0) continue;
        auto& target = targets[next++];
        if (target.defined()) target.copy_(arguments[r].toTensor());
      }
    };
    launch(stream(), std::move(what_), std::move(body));
  }

  // A new result, and the kernel's pointer to it.
  at::Tensor result(const Shape& shape) {
    if (shape.type == c10::ScalarType::Undefined) {
      fresh_.emplace_back(at::Tensor());
      return {};
    }
    auto tensor = empty_like_shape(shape, device_);
    touches(what_, tensor, true);
    fresh_.emplace_back(tensor);
    return raw(tensor);
  }

  // Once, with the host waiting: the shapes come out.
  void learn() {
    if (is_known_) counts::learnt(device_);
    counts::launched(device_);
    std::vector<at::Tensor> written;
    for (auto i : resized_) {
      written.push_back(at::detail::empty_cpu({0}, originals_[i].toTensor().options().device(at::kCPU)));
      arguments_[i] = written.back();
    }
    const auto results = computed();
    std::vector<Shape> shapes;
    for (size_t k = 0; k < resized_.size(); ++k) {
      auto tensor = originals_[resized_[k]].toTensor();
      tensor.resize_(written[k].sizes());
      shapes.push_back(shape_of(written[k]));
      keep(tensor, written[k]);
    }
    for (size_t r = 0; r < same_.size(); ++r) {
      if (same_[r] < 0) fresh_.push_back(bring(results[r], shapes));
    }
    if (is_known_ && is_memorable_) memo().add(key_.text(), shapes);
  }

  // Runs the kernel while the host waits; what it throws is the caller's.
  torch::jit::Stack computed() {
    auto problem = std::make_shared<std::exception_ptr>();
    auto results = std::make_shared<torch::jit::Stack>(std::move(arguments_));
    launch(stream(), what_, [op = op_, results, problem] {
      try {
        compute(op, *results);
      } catch (...) {
        *problem = std::current_exception();
      }
    });
    synchronize(stream());
    if (*problem) std::rethrow_exception(*problem);
    return *results;
  }

  c10::IValue bring(const c10::IValue& value, std::vector<Shape>& shapes) {
    if (value.isTensor()) return bring(value.toTensor(), shapes);
    if (!value.isTensorList()) return value;
    c10::List<at::Tensor> list;
    for (const auto& tensor : value.toTensorVector()) list.push_back(bring(tensor, shapes));
    return list;
  }

  at::Tensor bring(const at::Tensor& from, std::vector<Shape>& shapes) {
    shapes.push_back(from.defined() ? shape_of(from) : Shape{{}, {}, c10::ScalarType::Undefined});
    if (!from.defined()) return from;
    auto tensor = empty_like_shape(shapes.back(), device_);
    keep(tensor, from);
    return tensor;
  }

  // Copies a result of the waiting host's into its place on the card.
  void keep(const at::Tensor& to, const at::Tensor& from) {
    if (from.numel() == 0) return;
    Launch what{what_.name + " (its result)", {}};
    touches(what, to, true);
    launch(stream(), std::move(what), [to = raw(to), from]() mutable { to.copy_(from); });
  }

  c10::OperatorHandle op_;
  const c10::FunctionSchema& schema_;
  Key key_;
  std::vector<c10::IValue> originals_;
  torch::jit::Stack arguments_;
  Launch what_;
  int device_ = -1;
  // The shapes of the results follow from the key; and they are such as are remembered.
  bool is_known_ = true, is_memorable_ = true;
  bool has_new_ = false;
  // Arguments that are written and have no elements yet: the kernel may resize them.
  std::vector<size_t> resized_;
  // The argument that a return is, or -1.
  std::vector<int64_t> same_;
  std::vector<c10::IValue> fresh_;
};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Call(op, *stack).run(*stack); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

// CUDA has kernels for these; without one their composites would be taken.
// (Not _fused_rms_norm: the CPU has no backward of it.)
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  for (const char* name : {"native_layer_norm", "native_dropout"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}

}  // namespace
}  // namespace simgpu
