#include "routing.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/library.h>

namespace accel_simulator {

namespace {

using c10d::ProcessGroup;

// torch's own functions for these operators ask a group for the backend of their device type and
// call it. Those for CUDA are in every build, and are given a group that answers with `type`'s.
constexpr c10::DispatchKey kBorrowed = c10::DispatchKey::CUDA;
constexpr c10::DeviceType kBorrowedType = c10::DeviceType::CUDA;

// Made anew for each call: a group that is kept would keep its backend beyond its end.
c10::intrusive_ptr<ProcessGroup> answering_for(ProcessGroup& group, c10::DeviceType type) {
  auto made = c10::make_intrusive<ProcessGroup>(group.getRank(), group.getSize());
  made->setBackend(kBorrowedType, ProcessGroup::BackendType::CUSTOM, group.getBackend(type));
  return made;
}

template <c10::DeviceType type>
void run(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, torch::jit::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  for (auto value = stack->end() - static_cast<ptrdiff_t>(count); value != stack->end(); ++value) {
    if (value->isCustomClass() &&
        value->type()->isSubtypeOf(*c10::getCustomClassType<c10::intrusive_ptr<ProcessGroup>>())) {
      *value = c10::IValue(answering_for(*value->toCustomClass<ProcessGroup>(), type));
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(kBorrowed), stack);
}

}  // namespace

void route_collectives() {
  constexpr c10::DeviceType type = c10::DeviceType::XPU;
  static torch::Library* library = nullptr;
  if (library != nullptr) {
    return;
  }
  library = new torch::Library(
      torch::Library::IMPL, "c10d", c10::DispatchKey::XPU, __FILE__, __LINE__);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNamesForDispatchKey(kBorrowed)) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("c10d::", 0) == 0 && op &&
        !op->hasKernelForDispatchKey(c10::DispatchKey::XPU)) {
      library->impl(
          c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&run<type>>());
    }
  }
}

}  // namespace accel_simulator
