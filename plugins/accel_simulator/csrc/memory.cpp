#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>

namespace accel_simulator {

namespace {

using c10::CachingAllocator::format_size;
using c10::CachingAllocator::Stat;

// As torch's caching allocator has it: sizes are multiples of 512 bytes, and the driver is asked
// for segments of 2 MiB and more.
constexpr int64_t kRound = 512;
constexpr int64_t kSegment = 2 << 20;

int64_t rounded(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

int64_t limit_of(const DeviceState& state) {
  return static_cast<int64_t>(static_cast<double>(state.capacity) * state.fraction);
}

[[noreturn]] void out_of_memory(Backend& backend, c10::DeviceIndex index, int64_t wanted) {
  DeviceState& state = backend.device(index);
  const int64_t allocated = state.stats.allocated_bytes[0].current;
  const int64_t reserved = state.stats.reserved_bytes[0].current;
  state.stats.num_ooms += 1;
  std::ostringstream said;
  said << backend.memory_word << " out of memory. Tried to allocate " << format_size(wanted)
       << ". " << (backend.memory_word == "CUDA" ? "GPU " : backend.memory_word + " ")
       << static_cast<int>(index) << " has a total capacity of " << format_size(state.capacity)
       << " of which " << format_size(std::max<int64_t>(state.capacity - reserved, 0))
       << " is free. ";
  if (state.fraction < 1.0) {
    said << format_size(limit_of(state)) << " allowed; ";
  }
  said << "Of the allocated memory " << format_size(allocated)
       << " is allocated by PyTorch, and " << format_size(std::max<int64_t>(reserved - allocated, 0))
       << " is reserved by PyTorch but unallocated. If reserved but unallocated memory is large"
       << " try setting " << backend.allocator_setting
       << "=expandable_segments:True to avoid fragmentation.";
  C10_THROW_ERROR(OutOfMemoryError, said.str());
}

void check_fault(Backend& backend, c10::DeviceIndex index, int64_t bytes) {
  auto& left = backend.faults.allocations_until_failed;
  if (C10_UNLIKELY(left.load(std::memory_order_relaxed) >= 0) && left.fetch_sub(1) == 0) {
    out_of_memory(backend, index, bytes);
  }
}

void charge(c10::Device device, int64_t requested, int64_t bytes) {
  Backend& backend = backend_of(device.type());
  DeviceState& state = backend.device(device.index());
  std::lock_guard<std::mutex> guard(state.mutex);
  auto& stats = state.stats;
  check_fault(backend, device.index(), requested);
  const int64_t after = stats.allocated_bytes[0].current + bytes;
  if (after > limit_of(state)) {
    out_of_memory(backend, device.index(), requested);
  }
  stats.allocation[0].increase(1);
  stats.active[0].increase(1);
  stats.allocated_bytes[0].increase(bytes);
  stats.active_bytes[0].increase(bytes);
  stats.requested_bytes[0].increase(requested);
  if (after > stats.reserved_bytes[0].current) {
    const int64_t wanted = std::min(rounded(after, kSegment), limit_of(state));
    stats.reserved_bytes[0].increase(wanted - stats.reserved_bytes[0].current);
    stats.segment[0].increase(1);
    stats.num_device_alloc += 1;
  }
}

std::shared_ptr<DeviceState> state_of(c10::Device device) {
  Backend& backend = backend_of(device.type());
  backend.device(device.index());  // raises where there is none
  return backend.devices[device.index()];
}

void discharge(DeviceState& state, int64_t requested, int64_t bytes) {
  std::lock_guard<std::mutex> guard(state.mutex);
  auto& stats = state.stats;
  stats.allocation[0].decrease(1);
  stats.active[0].decrease(1);
  stats.allocated_bytes[0].decrease(bytes);
  stats.active_bytes[0].decrease(bytes);
  stats.requested_bytes[0].decrease(requested);
}

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  if (block->charged >= 0) {
    discharge(*block->counted_on, block->requested, block->charged);
  }
  delete block;
}

c10::DataPtr data_of(Block* block) {
  return {block->host.mutable_data(), block, &free_block, block->device};
}

// The host's own allocator, behind a check of what a kernel asks for on a device's behalf.
thread_local c10::Device fitting_on(c10::DeviceType::CPU);

class HostAllocator final : public c10::Allocator {
 public:
  explicit HostAllocator(c10::Allocator* host) : host_(host) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (C10_UNLIKELY(fitting_on.type() != c10::DeviceType::CPU)) {
      Backend& backend = backend_of(fitting_on.type());
      DeviceState& state = backend.device(fitting_on.index());
      std::lock_guard<std::mutex> guard(state.mutex);
      if (state.stats.allocated_bytes[0].current + static_cast<int64_t>(bytes) > limit_of(state)) {
        out_of_memory(backend, fitting_on.index(), static_cast<int64_t>(bytes));
      }
    }
    return host_->allocate(bytes);
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return host_->raw_deleter();
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    host_->copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* host_;
};

class SimulatedAllocator final : public c10::DeviceAllocator {
 public:
  explicit SimulatedAllocator(c10::DeviceType type) : type_(type) {}

  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device = settled(c10::Device(type_));
    const auto requested = static_cast<int64_t>(bytes);
    const int64_t charged = rounded(requested, kRound);
    charge(device, requested, charged);
    try {
      auto* host = c10::GetCPUAllocator();
      c10::Storage storage(
          c10::Storage::use_byte_size_t(), bytes, host->allocate(bytes), host, true);
      return data_of(
          new Block{std::move(storage), device, state_of(device), requested, charged});
    } catch (...) {
      discharge(*state_of(device), requested, charged);
      throw;
    }
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;  // a pointer alone does not tell its block
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

  bool initialized() override {
    return backend_of(type_).open;
  }

  void emptyCache(c10::MempoolId_t /*pool*/) override {
    empty_cache(backend_of(type_));
  }

  void recordStream(const c10::DataPtr& /*ptr*/, c10::Stream /*stream*/) override {}

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    DeviceState& state = backend_of(type_).device(device);
    std::lock_guard<std::mutex> guard(state.mutex);
    return state.stats;
  }

  void resetAccumulatedStats(c10::DeviceIndex device) override {
    each_stat(device, [](Stat& stat) { stat.reset_accumulated(); });
  }

  void resetPeakStats(c10::DeviceIndex device) override {
    each_stat(device, [](Stat& stat) { stat.reset_peak(); });
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    Backend& backend = backend_of(type_);
    return {free_bytes(backend, device), backend.device(device).capacity};
  }

 private:
  template <class Function>
  void each_stat(c10::DeviceIndex device, Function function) {
    DeviceState& state = backend_of(type_).device(device);
    std::lock_guard<std::mutex> guard(state.mutex);
    auto& stats = state.stats;
    for (auto* all :
         {&stats.allocation, &stats.segment, &stats.active, &stats.inactive_split,
          &stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes,
          &stats.inactive_split_bytes, &stats.requested_bytes}) {
      for (auto& stat : *all) {
        function(stat);
      }
    }
  }

  c10::DeviceType type_;
};

}  // namespace

c10::DeviceAllocator* allocator_of(c10::DeviceType type) {
  static SimulatedAllocator cuda(c10::DeviceType::CUDA);
  static SimulatedAllocator xpu(c10::DeviceType::XPU);
  static SimulatedAllocator own(c10::DeviceType::PrivateUse1);
  return type == c10::DeviceType::CUDA ? &cuda : type == c10::DeviceType::XPU ? &xpu : &own;
}

Block* block_of(const c10::Storage& storage) {
  const c10::DataPtr& data = storage.data_ptr();
  return data.get_deleter() == &free_block ? static_cast<Block*>(data.get_context()) : nullptr;
}

c10::Storage adopt(c10::Storage host, c10::Device device) {
  const auto requested = static_cast<int64_t>(host.nbytes());
  const int64_t charged = rounded(requested, kRound);
  charge(device, requested, charged);
  auto* block = new Block{std::move(host), device, state_of(device), requested, charged};
  return c10::Storage(
      c10::Storage::use_byte_size_t(), block->host.nbytes(), data_of(block),
      allocator_of(device.type()), true);
}

void follow(const c10::Storage& storage) {
  Block* block = block_of(storage);
  if (block == nullptr) {
    return;
  }
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  const auto requested = static_cast<int64_t>(block->host.nbytes());
  if (block->host.data() == impl->data() && requested == static_cast<int64_t>(impl->nbytes())) {
    return;
  }
  const int64_t charged = rounded(requested, kRound);
  discharge(*block->counted_on, block->requested, block->charged);
  block->charged = -1;  // until it is counted again, which may fail
  charge(block->device, requested, charged);
  block->counted_on = state_of(block->device);
  block->requested = requested;
  block->charged = charged;
  impl->mutable_data_ptr().release_context();
  impl->set_data_ptr_noswap(data_of(block));
  impl->set_nbytes(block->host.nbytes());
}

FitsOn::FitsOn(c10::Device device) : before_(fitting_on) {
  fitting_on = device;
}

FitsOn::~FitsOn() {
  fitting_on = before_;
}

int64_t free_bytes(Backend& backend, c10::DeviceIndex index) {
  DeviceState& state = backend.device(index);
  std::lock_guard<std::mutex> guard(state.mutex);
  return std::max<int64_t>(state.capacity - state.stats.reserved_bytes[0].current, 0);
}

void empty_cache(Backend& backend) {
  for (auto& state : backend.devices) {
    std::lock_guard<std::mutex> guard(state->mutex);
    auto& reserved = state->stats.reserved_bytes[0];
    const int64_t kept = rounded(state->stats.allocated_bytes[0].current, kSegment);
    if (kept < reserved.current) {
      reserved.decrease(reserved.current - kept);
      state->stats.num_device_free += 1;
    }
  }
}

void watch_host_allocations() {
  static HostAllocator watching(c10::GetCPUAllocator());
  c10::SetCPUAllocator(&watching, 1);
}

}  // namespace accel_simulator
