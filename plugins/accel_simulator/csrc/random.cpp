#include "random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Utils.h>
#include <ATen/core/jit_type.h>

#include <cstring>

namespace accel_simulator {

namespace {

// What an operator moves the offset by: four numbers are the least that a card's engine draws.
constexpr uint64_t kStep = 4;

// The host's engine takes 32 bits of a seed. At offset 0 it is the seed's own.
uint64_t mixed(uint64_t seed, uint64_t offset) {
  if (offset == 0) {
    return seed;
  }
  uint64_t bits = seed + offset * 0x9e3779b97f4a7c15ULL;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ULL;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebULL;
  return bits ^ (bits >> 31);
}

class DeviceGenerator final : public c10::GeneratorImpl {
 public:
  explicit DeviceGenerator(c10::Device device)
      : c10::GeneratorImpl(device, c10::DispatchKeySet(backend_of(device.type()).key)),
        engine_(at::detail::createCPUGenerator()) {}

  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    offset_ = 0;
  }
  void set_offset(uint64_t offset) override {
    TORCH_CHECK(offset % kStep == 0, "offset must be a multiple of 4");
    offset_ = offset;
  }
  uint64_t get_offset() const override {
    return offset_;
  }
  uint64_t current_seed() const override {
    return seed_;
  }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return seed_;
  }
  void set_state(const c10::TensorImpl& state) override {
    at::detail::check_rng_state(state);
    TORCH_CHECK(
        state.numel() == sizeof(seed_) + sizeof(offset_), "RNG state is wrong size: it has ",
        state.numel(), " bytes, and a device's has a seed and an offset, 16 bytes");
    const auto* bytes = state.data_dtype_initialized<uint8_t>();
    uint64_t offset = 0;
    std::memcpy(&offset, bytes + sizeof(seed_), sizeof(offset));
    set_offset(offset);
    std::memcpy(&seed_, bytes, sizeof(seed_));
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    at::Tensor state = at::detail::empty_cpu(
        {sizeof(seed_) + sizeof(offset_)}, at::kByte, std::nullopt, std::nullopt, std::nullopt,
        std::nullopt);
    auto* bytes = state.mutable_data_ptr<uint8_t>();
    std::memcpy(bytes, &seed_, sizeof(seed_));
    std::memcpy(bytes + sizeof(seed_), &offset_, sizeof(offset_));
    return state.getIntrusivePtr();
  }
  const at::Generator& next() {
    engine_.set_current_seed(mixed(seed_, offset_));
    offset_ += kStep;
    return engine_;
  }

 private:
  DeviceGenerator* clone_impl() const override {
    auto* made = new DeviceGenerator(device_);
    made->seed_ = seed_;
    made->offset_ = offset_;
    return made;
  }

  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t offset_ = 0;
  at::Generator engine_;
};

}  // namespace

at::Generator new_generator(c10::Device device) {
  return at::make_generator<DeviceGenerator>(device);
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
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->next();
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
