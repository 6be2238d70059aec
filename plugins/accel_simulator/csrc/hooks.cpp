#include "hooks.h"

#include "memory.h"
#include "random.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>
#include <c10/core/CPUAllocator.h>

#include <map>
#include <new>

namespace accel_simulator {

namespace {

// Host memory that the device may read by itself. Here that is all of it; what was asked to be
// pinned is remembered, so that is_pinned() tells the truth.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr data = c10::GetCPUAllocator()->allocate(bytes);
    void* start = data.get();
    auto* owner = new Owner{std::move(data), this};
    std::lock_guard<std::mutex> guard(mutex_);
    ranges_[static_cast<char*>(start)] = bytes;
    return {start, owner, &free_owner, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool holds(const void* pointer) const {
    std::lock_guard<std::mutex> guard(mutex_);
    auto after = ranges_.upper_bound(const_cast<char*>(static_cast<const char*>(pointer)));
    if (after == ranges_.begin()) {
      return false;
    }
    --after;
    return static_cast<const char*>(pointer) < after->first + std::max<size_t>(after->second, 1);
  }

 private:
  struct Owner {
    c10::DataPtr data;
    PinnedAllocator* from;
  };
  static void free_owner(void* context) {
    auto* owner = static_cast<Owner*>(context);
    {
      std::lock_guard<std::mutex> guard(owner->from->mutex_);
      owner->from->ranges_.erase(static_cast<char*>(owner->data.get()));
    }
    delete owner;
  }

  mutable std::mutex mutex_;
  std::map<char*, size_t> ranges_;
};

PinnedAllocator& pinned() {
  static auto* allocator = new PinnedAllocator;  // outlives every tensor
  return *allocator;
}

// What the three interfaces share.
template <class Interface, c10::DeviceType kType>
struct Hooks : Interface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return backend_of(kType).count() > 0;
  }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override {
    return isAvailable();
  }
  void init() const override {}
  c10::DeviceIndex deviceCount() const override {
    return backend_of(kType).count();
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    set_current_index(kType, settled(c10::Device(kType, index)).index());
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current_index(kType);
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const c10::DeviceIndex before = current_index(kType);
    setCurrentDevice(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override {
    return pinned().holds(data);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned();
  }
  c10::Device getDeviceFromPtr(void* /*data*/) const override {
    return {kType, current_index(kType)};
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(settled(c10::Device(kType, index)));
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return new_generator(settled(c10::Device(kType, index)));
  }
};

struct CudaHooks final : Hooks<at::CUDAHooksInterface, c10::DeviceType::CUDA> {
  bool hasCUDA() const override {
    return isAvailable();
  }
  c10::DeviceIndex current_device() const override {
    return current_index(c10::DeviceType::CUDA);
  }
  c10::Allocator* getCUDADeviceAllocator() const override {
    return allocator_of(c10::DeviceType::CUDA);
  }
  int getNumGPUs() const override {
    return backend_of(c10::DeviceType::CUDA).count();
  }
  std::string showConfig() const override {
    return "a simulated " + backend_of(c10::DeviceType::CUDA).card;
  }
  void deviceSynchronize(c10::DeviceIndex /*index*/) const override {}
};

struct XpuHooks final : Hooks<at::XPUHooksInterface, c10::DeviceType::XPU> {
  bool hasXPU() const override {
    return isAvailable();
  }
  int32_t getGlobalIdxFromDevice(const c10::Device& device) const override {
    return device.index();
  }
  c10::DeviceIndex getNumGPUs() const override {
    return backend_of(c10::DeviceType::XPU).count();
  }
  c10::DeviceIndex current_device() const override {
    return current_index(c10::DeviceType::XPU);
  }
  std::string showConfig() const override {
    return "a simulated " + backend_of(c10::DeviceType::XPU).card;
  }
  void deviceSynchronize(c10::DeviceIndex /*index*/) const override {}
};

struct OwnHooks final : Hooks<at::PrivateUse1HooksInterface, c10::DeviceType::PrivateUse1> {
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    Block* block = block_of(storage);
    TORCH_CHECK(block != nullptr, "this storage was not made by the simulator");
    c10::StorageImpl* host = block->host.unsafeGetStorageImpl();
    c10::DataPtr larger = host->allocator()->allocate(bytes);
    std::memcpy(larger.get(), host->data(), std::min(bytes, host->nbytes()));
    host->set_data_ptr_noswap(std::move(larger));
    host->set_nbytes(bytes);
    follow(storage);
  }
};

// torch asks a build without CUDA (or XPU) for its hooks while it is imported, before any plugin
// can be, and keeps the answer: an object without state. Ours, without state as well, takes its
// place in memory.
template <class Interface, class Ours>
void take_the_place_of(const Interface& hooks) {
  static_assert(sizeof(Interface) == sizeof(Ours), "hooks must have no state");
  new (const_cast<Interface*>(&hooks)) Ours();
}

}  // namespace

void register_hooks(c10::DeviceType type) {
  switch (type) {
    case c10::DeviceType::CUDA:
      take_the_place_of<at::CUDAHooksInterface, CudaHooks>(at::detail::getCUDAHooks());
      break;
    case c10::DeviceType::XPU:
      take_the_place_of<at::XPUHooksInterface, XpuHooks>(at::detail::getXPUHooks());
      break;
    default:
      at::RegisterPrivateUse1HooksInterface(new OwnHooks);
  }
}

}  // namespace accel_simulator
