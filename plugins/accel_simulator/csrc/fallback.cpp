#include "fallback.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <unordered_set>

namespace accel_simulator {

namespace {

// Operators that go through the card's matrix units or their library.
bool is_product(const std::string& name) {
  static const std::unordered_set<std::string> known = {
      "aten::mm",           "aten::addmm",        "aten::bmm",
      "aten::baddbmm",      "aten::addbmm",       "aten::dot",
      "aten::mv",           "aten::addmv",        "aten::convolution_overrideable",
      "aten::_convolution", "aten::convolution",  "aten::convolution_backward_overrideable"};
  return known.count(name) != 0;
}

void replace(std::string& text, const std::string& word, const std::string& with) {
  const size_t at = text.find(word);
  if (at != std::string::npos) {
    text.replace(at, word.size(), with);
  }
}

void check_dtype(const c10::OperatorHandle& op, Backend& backend, c10::ScalarType dtype) {
  const auto found = backend.refused.find(dtype);
  if (C10_LIKELY(found == backend.refused.end())) {
    return;
  }
  const std::string& name = op.operator_name().name;
  if (found->second.products_only && !is_product(name)) {
    return;
  }
  std::string message = found->second.message;
  replace(message, "{op}", name.substr(name.find("::") + 2));
  TORCH_CHECK(false, message);
}

// Products of float16 alone. A card takes float16 in and sums in float32; a processor without
// arithmetic in it goes one number at a time, tens of times slower than in float32.
bool sums_in_float32(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  static const std::unordered_set<std::string> known = {
      "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"};
  const auto& name = op.operator_name();
  if (!name.overload_name.empty() || known.count(name.name) == 0) {
    return false;
  }
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor() && value.toTensor().scalar_type() != at::kHalf) {
      return false;
    }
  }
  return true;
}

void run_in_float32(
    const c10::OperatorHandle& op, c10::Device device, torch::jit::Stack* stack) {
  const auto count = static_cast<ptrdiff_t>(op.schema().arguments().size());
  for (auto value = stack->end() - count; value != stack->end(); ++value) {
    if (value->isTensor()) {
      *value = value->toTensor().to(at::kFloat);
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  FitsOn fits(device);  // what the card would hold is the result alone
  stack->back() = stack->back().toTensor().to(at::kHalf);
}

}  // namespace

void refuse_dtypes(
    const c10::OperatorHandle& op, Backend& backend, const torch::jit::Stack& stack) {
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) {
      if (value.toTensor().defined()) {
        check_dtype(op, backend, value.toTensor().scalar_type());
      }
    } else if (value.isTensorList()) {
      for (const auto& item : value.toListRef()) {
        if (item.toTensor().defined()) {
          check_dtype(op, backend, item.toTensor().scalar_type());
        }
      }
    }
  }
}

void run_on_host(
    const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const c10::DeviceType type = c10::dispatchKeyToDeviceType(keys.highestPriorityTypeId());
  Backend& backend = backend_of(type);
  const c10::Device device = device_of_call(op, *stack, type);
  operator_runs(backend, device.index());
  if (C10_UNLIKELY(!backend.refused.empty())) {
    refuse_dtypes(op, backend, *stack);
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU), "Could not run '",
      toString(op.operator_name()), "' on the simulated ", backend.card,
      ": torch has no kernel of it for the host's processor, which simulated devices compute on.");
  Call call(op, device);
  call.enter(*stack);
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    if (sums_in_float32(op, *stack)) {
      run_in_float32(op, device, stack);
    } else {
      FitsOn fits(device);
      op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    }
  }
  call.leave(*stack);
}

}  // namespace accel_simulator
