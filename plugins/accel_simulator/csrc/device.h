// The simulated devices of a process: how many, how large, what they lack, what goes wrong on them.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <c10/core/DispatchKey.h>
#include <c10/core/ScalarType.h>
#include <c10/core/Storage.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace accel_simulator {

// What a card says when it is asked for a dtype that it lacks.
struct Refusal {
  std::string message;  // {op} and {dtype} are filled in
  bool products_only;   // matrix products and convolutions alone: the rest is emulated
};

// What goes wrong on demand. A count of -1 is never.
struct Faults {
  std::atomic<int64_t> operators_until_lost{-1};
  std::atomic<int64_t> allocations_until_failed{-1};
  std::atomic<int64_t> collectives_until_timeout{-1};
};

struct DeviceState {
  std::mutex mutex;
  int64_t capacity = 0;  // bytes
  double fraction = 1.0;  // of it, that this process may use
  c10::CachingDeviceAllocator::DeviceStats stats;
  at::Generator generator;
  std::atomic<bool> lost{false};
};

struct Backend {
  c10::DeviceType type;
  c10::DispatchKey key;
  bool open = false;
  std::string card;        // the card's name, for messages
  std::string lost_error;  // what the driver says once the device is gone, and its number for it
  int32_t lost_code = 0;
  std::string memory_word;  // how its out-of-memory message begins: "CUDA", "NPU"
  std::string allocator_setting;  // the environment variable that message ends with
  std::map<c10::ScalarType, Refusal> refused;
  std::vector<int64_t> attention;  // SDPBackend numbers that the card has, best first
  std::vector<c10::ScalarType> attention_dtypes;  // those its fused kernels take
  std::string attention_error;  // what attention says where its library is missing
  Faults faults;
  // shared with what is allocated on them, which may outlive a simulation
  std::vector<std::shared_ptr<DeviceState>> devices;

  DeviceState& device(c10::DeviceIndex index);
  c10::DeviceIndex count() const {
    return open ? static_cast<c10::DeviceIndex>(devices.size()) : 0;
  }
};

// The three device types that can be simulated: CUDA, XPU and PrivateUse1.
Backend& backend_of(c10::DeviceType type);
bool is_simulated(c10::DeviceType type);

c10::DeviceIndex current_index(c10::DeviceType type);
void set_current_index(c10::DeviceType type, c10::DeviceIndex index);
// The device with its index filled in; raises where there is no such device.
c10::Device settled(c10::Device device);

// Counts an operator towards a fault; raises where the device is lost.
void operator_runs(Backend& backend, c10::DeviceIndex index);
[[noreturn]] void raise_lost(const Backend& backend);

}  // namespace accel_simulator
