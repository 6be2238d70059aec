#include "kernels.h"

#include "fallback.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <unordered_set>

namespace accel_simulator {

namespace {

// Registered by hand, or right as they are: they only make, or look at, tensors.
const std::unordered_set<std::string>& left_alone() {
  static const std::unordered_set<std::string> names = {
      "aten::empty",    "aten::empty_strided", "aten::as_strided",     "aten::view",
      "aten::copy_",    "aten::_copy_from",    "aten::_reshape_alias", "aten::set_",
      "aten::detach",   "aten::alias",         "aten::native_dropout", "aten::record_stream",
      "aten::_to_copy", "aten::is_pinned",     "aten::_pin_memory",    "aten::_fused_sdp_choice",
      "aten::data",     "aten::is_same_size",  "aten::_has_same_storage_numel"};
  return names;
}

bool has_composite(const c10::OperatorHandle& op) {
  for (const auto key :
       {c10::DispatchKey::CompositeImplicitAutograd, c10::DispatchKey::CompositeExplicitAutograd,
        c10::DispatchKey::CompositeExplicitAutogradNonFunctional}) {
    if (op.hasKernelForDispatchKey(key)) {
      return true;
    }
  }
  return false;
}

// Chosen by torch by the type of the device, in ways that only fit a real one.
bool chooses_by_device(const std::string& name) {
  return name == "aten::convolution" || name == "aten::convolution_backward" ||
      name == "aten::_convolution";
}

}  // namespace

void register_host_kernels(torch::Library& library, c10::DispatchKey key) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0 || left_alone().count(name.name) != 0) {
      continue;
    }
    const auto op = dispatcher.findSchema(name);
    if (!op.has_value() || op->hasKernelForDispatchKey(key)) {
      continue;
    }
    const bool own = op->hasKernelForDispatchKey(c10::DispatchKey::CPU) && has_composite(*op);
    if (own || chooses_by_device(name.name)) {
      const std::string spelled =
          name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
      library.impl(
          spelled.c_str() + sizeof("aten::") - 1,
          torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
    }
  }
}

}  // namespace accel_simulator
