#include "device.h"

#include <c10/util/Exception.h>

#include <array>

namespace accel_simulator {

namespace {

constexpr size_t kTypes = static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);

thread_local std::array<c10::DeviceIndex, kTypes> current{};

bool count_down(std::atomic<int64_t>& left) {
  return left.load(std::memory_order_relaxed) >= 0 && left.fetch_sub(1) == 0;
}

}  // namespace

Backend& backend_of(c10::DeviceType type) {
  static Backend cuda{c10::DeviceType::CUDA, c10::DispatchKey::CUDA};
  static Backend xpu{c10::DeviceType::XPU, c10::DispatchKey::XPU};
  static Backend own{c10::DeviceType::PrivateUse1, c10::DispatchKey::PrivateUse1};
  switch (type) {
    case c10::DeviceType::CUDA:
      return cuda;
    case c10::DeviceType::XPU:
      return xpu;
    case c10::DeviceType::PrivateUse1:
      return own;
    default:
      TORCH_CHECK(false, "devices of type ", type, " are not simulated");
  }
}

bool is_simulated(c10::DeviceType type) {
  return type == c10::DeviceType::CUDA || type == c10::DeviceType::XPU ||
      type == c10::DeviceType::PrivateUse1;
}

DeviceState& Backend::device(c10::DeviceIndex index) {
  TORCH_CHECK(
      index >= 0 && static_cast<size_t>(index) < devices.size(), "invalid device ordinal: ",
      c10::DeviceTypeName(type, true), ":", static_cast<int>(index), ", with ", devices.size(),
      " simulated");
  return *devices[index];
}

c10::DeviceIndex current_index(c10::DeviceType type) {
  return current[static_cast<size_t>(type)];
}

void set_current_index(c10::DeviceType type, c10::DeviceIndex index) {
  current[static_cast<size_t>(type)] = index;
}

c10::Device settled(c10::Device device) {
  Backend& backend = backend_of(device.type());
  TORCH_CHECK(
      backend.open, "no device of type ", c10::DeviceTypeName(device.type(), true),
      " is simulated any more");
  c10::Device whole(
      device.type(), device.has_index() ? device.index() : current_index(device.type()));
  backend.device(whole.index());
  return whole;
}

void operator_runs(Backend& backend, c10::DeviceIndex index) {
  DeviceState& state = backend.device(index);
  if (C10_UNLIKELY(count_down(backend.faults.operators_until_lost))) {
    state.lost = true;
  }
  if (C10_UNLIKELY(state.lost.load(std::memory_order_relaxed))) {
    raise_lost(backend);
  }
}

void raise_lost(const Backend& backend) {
  throw c10::AcceleratorError(
      {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, backend.lost_code,
      backend.lost_error);
}

}  // namespace accel_simulator
