#include "random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/jit_type.h>

namespace accel_simulator {

namespace {

class DeviceGenerator final : public c10::GeneratorImpl {
 public:
  DeviceGenerator(c10::Device device, at::Generator engine)
      : c10::GeneratorImpl(device, c10::DispatchKeySet(backend_of(device.type()).key)),
        engine_(std::move(engine)) {}

  void set_current_seed(uint64_t seed) override {
    engine_.set_current_seed(seed);
  }
  void set_offset(uint64_t offset) override {
    TORCH_CHECK(offset == 0, "a simulated device's generator has no offset to set");
  }
  uint64_t get_offset() const override {
    return 0;
  }
  uint64_t current_seed() const override {
    return engine_.current_seed();
  }
  uint64_t seed() override {
    return engine_.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    engine_.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return engine_.unsafeGetGeneratorImpl()->get_state();
  }
  const at::Generator& engine() const {
    return engine_;
  }

 private:
  DeviceGenerator* clone_impl() const override {
    return new DeviceGenerator(device_, engine_.clone());
  }

  at::Generator engine_;
};

}  // namespace

at::Generator new_generator(c10::Device device) {
  return at::make_generator<DeviceGenerator>(device, at::detail::createCPUGenerator());
}

const at::Generator& default_generator(c10::Device device) {
  DeviceState& state = backend_of(device.type()).device(device.index());
  std::lock_guard<std::mutex> guard(state.mutex);
  if (!state.generator.defined()) {
    state.generator = new_generator(device);
  }
  return state.generator;
}

at::Generator host_generator(const at::Generator& generator) {
  if (!generator.defined() || !is_simulated(generator.device().type())) {
    return generator;
  }
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->engine();
}

bool is_generator(const c10::Argument& argument) {
  const auto& type = argument.type();
  if (type->kind() == c10::TypeKind::OptionalType) {
    return type->castRaw<c10::OptionalType>()->getElementType()->kind() ==
        c10::TypeKind::GeneratorType;
  }
  return type->kind() == c10::TypeKind::GeneratorType;
}

}  // namespace accel_simulator
