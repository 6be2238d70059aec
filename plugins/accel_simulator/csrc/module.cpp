// The Python face of the simulator: what the plugin's modules call.
#include <torch/csrc/utils/pybind.h>

#include "collectives.h"
#include "device.h"
#include "engine.h"
#include "guard.h"
#include "hooks.h"
#include "kernels.h"
#include "fallback.h"
#include "memory.h"
#include "random.h"

#include <torch/library.h>

#include <pybind11/stl.h>

namespace accel_simulator {

namespace {

namespace py = pybind11;

c10::DeviceType type_named(const std::string& name) {
  return c10::Device(name).type();
}

// Once in a process: there is no way to take kernels back from torch while tensors may live.
void register_all(c10::DeviceType type) {
  static std::map<c10::DeviceType, std::vector<std::unique_ptr<torch::Library>>> done;
  if (done.count(type) != 0) {
    return;
  }
  Backend& backend = backend_of(type);
  if (done.empty()) {
    watch_host_allocations();
  }
  auto& libraries = done[type];
  c10::SetAllocator(type, allocator_of(type), 1);
  register_guard(type);
  register_hooks(type);
  libraries.push_back(std::make_unique<torch::Library>(
      torch::Library::IMPL, "aten", backend.key, __FILE__, __LINE__));
  libraries.reserve(4);
  torch::Library& aten = *libraries.back();
  register_factories(aten);
  register_recurrent(aten);
  register_sync_norms(aten);
  register_attention(aten, type);
  if (type == c10::DeviceType::XPU) {
    register_plain_attention(aten);
    libraries.push_back(std::make_unique<torch::Library>(
        torch::Library::IMPL, "aten", c10::DispatchKey::AutogradXPU, __FILE__, __LINE__));
    register_plain_attention(*libraries.back());
  }
  register_host_kernels(aten, backend.key);
  libraries.push_back(std::make_unique<torch::Library>(
      torch::Library::IMPL, "_", backend.key, __FILE__, __LINE__));
  libraries.back()->fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  if (type == c10::DeviceType::PrivateUse1) {
    register_autocast();
    register_own_type(aten);
  }
}

at::ScalarType dtype_of(const py::handle& dtype) {
  return py::cast<at::ScalarType>(dtype);
}

void open(const std::string& kind, const py::dict& card) {
  const c10::DeviceType type = type_named(kind);
  Backend& backend = backend_of(type);
  backend.card = py::cast<std::string>(card["name"]);
  backend.lost_error = py::cast<std::string>(card["lost_error"]);
  backend.lost_code = py::cast<int32_t>(card["lost_code"]);
  backend.memory_word = py::cast<std::string>(card["memory_word"]);
  backend.allocator_setting = py::cast<std::string>(card["allocator_setting"]);
  backend.attention = py::cast<std::vector<int64_t>>(card["attention"]);
  backend.attention_error = py::cast<std::string>(card["attention_error"]);
  backend.attention_dtypes.clear();
  for (const auto& dtype : card["attention_dtypes"]) {
    backend.attention_dtypes.push_back(dtype_of(dtype));
  }
  backend.refused.clear();
  for (const auto& item : py::cast<py::list>(card["refused"])) {
    const auto parts = py::cast<py::tuple>(item);
    backend.refused[dtype_of(parts[0])] =
        Refusal{py::cast<std::string>(parts[1]), py::cast<bool>(parts[2])};
  }
  backend.devices.clear();
  for (const auto& capacity : card["capacities"]) {
    backend.devices.push_back(std::make_shared<DeviceState>());
    backend.devices.back()->capacity = py::cast<int64_t>(capacity);
  }
  backend.faults.operators_until_lost = -1;
  backend.faults.allocations_until_failed = -1;
  backend.faults.collectives_until_timeout = -1;
  set_current_index(type, 0);
  backend.open = true;
  register_all(type);
}

void close(const std::string& kind) {
  backend_of(type_named(kind)).open = false;
}

py::dict stats(const std::string& kind, c10::DeviceIndex index) {
  const auto found = allocator_of(type_named(kind))->getDeviceStats(index);
  py::dict result;
  const std::pair<const char*, const c10::CachingAllocator::StatArray*> all[] = {
      {"allocation", &found.allocation},
      {"segment", &found.segment},
      {"active", &found.active},
      {"inactive_split", &found.inactive_split},
      {"allocated_bytes", &found.allocated_bytes},
      {"reserved_bytes", &found.reserved_bytes},
      {"active_bytes", &found.active_bytes},
      {"inactive_split_bytes", &found.inactive_split_bytes},
      {"requested_bytes", &found.requested_bytes}};
  for (const auto& [name, array] : all) {
    py::dict pools;
    const char* pool_names[] = {"all", "small_pool", "large_pool"};
    for (size_t pool = 0; pool < 3; ++pool) {
      const auto& stat = (*array)[pool];
      py::dict values;
      values["current"] = stat.current;
      values["peak"] = stat.peak;
      values["allocated"] = stat.allocated;
      values["freed"] = stat.freed;
      pools[pool_names[pool]] = values;
    }
    result[name] = pools;
  }
  for (const auto& [name, stat] :
       {std::pair{"oversize_allocations", found.oversize_allocations},
        std::pair{"oversize_segments", found.oversize_segments}}) {
    py::dict values;
    values["current"] = stat.current;
    values["peak"] = stat.peak;
    values["allocated"] = stat.allocated;
    values["freed"] = stat.freed;
    result[name] = values;
  }
  result["num_alloc_retries"] = found.num_alloc_retries;
  result["num_ooms"] = found.num_ooms;
  result["max_split_size"] = -1;
  result["num_sync_all_streams"] = found.num_sync_all_streams;
  result["num_device_alloc"] = found.num_device_alloc;
  result["num_device_free"] = found.num_device_free;
  return result;
}

void set_fault(const std::string& kind, const std::string& fault, int64_t after) {
  auto& faults = backend_of(type_named(kind)).faults;
  if (fault == "lost") {
    faults.operators_until_lost = after;
  } else if (fault == "memory") {
    faults.allocations_until_failed = after;
  } else if (fault == "timeout") {
    faults.collectives_until_timeout = after;
  } else {
    TORCH_CHECK(false, "no fault is called ", fault);
  }
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("open", &open);
  m.def("close", &close);
  m.def("stats", &stats);
  m.def("set_fault", &set_fault);
  m.def("devices_of_autograd", &devices_of_autograd);
  m.def("count", [](const std::string& kind) { return backend_of(type_named(kind)).count(); });
  m.def("current", [](const std::string& kind) { return current_index(type_named(kind)); });
  m.def("set_current", [](const std::string& kind, c10::DeviceIndex index) {
    const auto type = type_named(kind);
    set_current_index(type, settled(c10::Device(type, index)).index());
  });
  m.def("capacity", [](const std::string& kind, c10::DeviceIndex index) {
    return backend_of(type_named(kind)).device(index).capacity;
  });
  m.def("free_bytes", [](const std::string& kind, c10::DeviceIndex index) {
    return free_bytes(backend_of(type_named(kind)), index);
  });
  m.def("empty_cache", [](const std::string& kind) { empty_cache(backend_of(type_named(kind))); });
  m.def("reset_peak", [](const std::string& kind, c10::DeviceIndex index) {
    allocator_of(type_named(kind))->resetPeakStats(index);
  });
  m.def("reset_accumulated", [](const std::string& kind, c10::DeviceIndex index) {
    allocator_of(type_named(kind))->resetAccumulatedStats(index);
  });
  m.def("set_fraction", [](const std::string& kind, c10::DeviceIndex index, double fraction) {
    backend_of(type_named(kind)).device(index).fraction = fraction;
  });
  m.def("fraction", [](const std::string& kind, c10::DeviceIndex index) {
    return backend_of(type_named(kind)).device(index).fraction;
  });
  m.def("generator", [](const std::string& kind, c10::DeviceIndex index) {
    return default_generator(settled(c10::Device(type_named(kind), index)));
  });
  m.def("host_view", [](const at::Tensor& tensor) {
    TORCH_CHECK(
        is_simulated(tensor.device().type()), "a tensor of a simulated device is needed, found ",
        tensor.device());
    return host_view(tensor);
  });
  add_collectives(m);
}

}  // namespace accel_simulator
