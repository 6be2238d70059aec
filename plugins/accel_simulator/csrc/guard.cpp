#include "guard.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <chrono>
#include <map>

namespace accel_simulator {

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

using Clock = std::chrono::steady_clock;

struct Event {
  Clock::time_point at;
};

thread_local std::map<std::pair<c10::DeviceType, DeviceIndex>, c10::StreamId> streams;
std::atomic<c10::StreamId> next_stream{1};

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  explicit Guard(c10::DeviceType type) : type_(type) {}

  c10::DeviceType type() const override {
    return type_;
  }
  Device exchangeDevice(Device device) const override {
    const Device before = getDevice();
    setDevice(device);
    return before;
  }
  Device getDevice() const override {
    return {type_, current_index(type_)};
  }
  void setDevice(Device device) const override {
    set_current_index(type_, settled(device).index());
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    set_current_index(type_, device.index());
  }

  Stream getStream(Device device) const override {
    const Device whole = settled(device);
    const auto found = streams.find({type_, whole.index()});
    return stream_of(whole, found == streams.end() ? 0 : found->second);
  }
  Stream getDefaultStream(Device device) const override {
    return stream_of(settled(device), 0);
  }
  Stream getStreamFromGlobalPool(Device device, bool /*high*/) const override {
    return stream_of(settled(device), next_stream++);
  }
  Stream getNewStream(Device device, int /*priority*/) const override {
    return stream_of(settled(device), next_stream++);
  }
  Stream exchangeStream(Stream stream) const override {
    const Stream before = getStream(stream.device());
    streams[{type_, stream.device_index()}] = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const Stream stream) const override {
    return reinterpret_cast<void*>(stream.id());
  }

  DeviceIndex deviceCount() const noexcept override {
    return backend_of(type_).count();
  }
  c10::DeviceCapability getDeviceCapability(Device /*device*/) const override {
    return {};
  }

  void destroyEvent(void* event, const DeviceIndex /*index*/) const noexcept override {
    delete static_cast<Event*>(event);
  }
  void record(
      void** event, const Stream& stream, const DeviceIndex /*index*/,
      const c10::EventFlag /*flag*/) const override {
    checked(stream.device_index());
    if (*event == nullptr) {
      *event = new Event;
    }
    static_cast<Event*>(*event)->at = Clock::now();
  }
  void block(void* /*event*/, const Stream& stream) const override {
    checked(stream.device_index());
  }
  bool queryEvent(void* /*event*/) const override {
    return true;
  }
  bool queryStream(const Stream& stream) const override {
    checked(stream.device_index());
    return true;
  }
  void synchronizeStream(const Stream& stream) const override {
    checked(stream.device_index());
  }
  void synchronizeEvent(void* /*event*/) const override {}
  void synchronizeDevice(const DeviceIndex index) const override {
    checked(index < 0 ? current_index(type_) : index);
  }
  double elapsedTime(void* first, void* second, const DeviceIndex /*index*/) const override {
    TORCH_CHECK(first != nullptr && second != nullptr, "Both events must be recorded.");
    const auto between = static_cast<Event*>(second)->at - static_cast<Event*>(first)->at;
    return std::chrono::duration<double, std::milli>(between).count();
  }

 private:
  static Stream stream_of(Device device, c10::StreamId id) {
    return Stream(Stream::UNSAFE, device, id);
  }

  // What a lost device does to everything that waits for it.
  void checked(DeviceIndex index) const {
    Backend& backend = backend_of(type_);
    if (backend.device(index).lost) {
      raise_lost(backend);
    }
  }

  c10::DeviceType type_;
};

}  // namespace

void register_guard(c10::DeviceType type) {
  // never freed: guards outlive everything, destructors at exit included
  c10::impl::DeviceGuardImplRegistrar registrar(type, new Guard(type));
}

}  // namespace accel_simulator
