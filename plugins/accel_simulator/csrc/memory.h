// Device memory: storages that hold host memory, counted against the card's capacity.
#pragma once

#include "device.h"

namespace accel_simulator {

// What stands behind every storage on a simulated device: a storage of the host, which kernels
// compute in. The device's storage points at the same bytes.
struct Block {
  c10::Storage host;
  c10::Device device;
  std::shared_ptr<DeviceState> counted_on;
  int64_t requested;
  int64_t charged;  // negative: not counted
};

c10::DeviceAllocator* allocator_of(c10::DeviceType type);

// The block behind a storage of a simulated device; null where something else made the storage.
Block* block_of(const c10::Storage& storage);

// A storage on `device` over `host`, counted; raises OutOfMemoryError where it does not fit.
c10::Storage adopt(c10::Storage host, c10::Device device);

// After a kernel resized the host's storage: count it anew and let the device's storage follow.
void follow(const c10::Storage& storage);

// While it lives, what kernels allocate on the host must fit on `device`, or OutOfMemoryError.
class FitsOn {
 public:
  explicit FitsOn(c10::Device device);
  ~FitsOn();
  FitsOn(const FitsOn&) = delete;
  FitsOn& operator=(const FitsOn&) = delete;

 private:
  c10::Device before_;
};

int64_t free_bytes(Backend& backend, c10::DeviceIndex index);
void empty_cache(Backend& backend);
void watch_host_allocations();

}  // namespace accel_simulator
