#include "alias.h"

#include "random.h"

#include <ATen/core/List.h>
#include <c10/core/TensorImpl.h>

#include <unordered_set>

namespace accel_simulator {

namespace {

// What a real device takes from the host beside its own tensors.
bool takes_host_tensors(const c10::OperatorHandle& op) {
  static const std::unordered_set<std::string> known = {
      "aten::index",         "aten::index_put_",   "aten::_index_put_impl_",
      "aten::_unsafe_index", "aten::index_put",    "aten::copy_",
      "aten::_copy_from",    "aten::set_",         "aten::_unsafe_index_put",
      "aten::tensor_split",  "aten::_to_copy",     "aten::equal"};
  const std::string& name = op.operator_name().name;
  return known.count(name) != 0 || name.rfind("aten::_foreach", 0) == 0 ||
      name.rfind("aten::_fused", 0) == 0;
}

at::Tensor over(const c10::Storage& storage, const at::Tensor& like, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  c10::TensorImpl* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  if (like.is_conj()) {
    made._set_conj(true);
  }
  if (like.is_neg()) {
    made._set_neg(true);
  }
  return made;
}

}  // namespace

at::Tensor host_view(const at::Tensor& tensor) {
  Block* block = block_of(tensor.storage());
  if (C10_LIKELY(block != nullptr)) {
    return over(block->host, tensor, c10::DispatchKey::CPU);
  }
  // a storage that something else made over the host's memory: the tensor keeps it alive
  const c10::Storage& storage = tensor.storage();
  c10::Storage host(
      c10::Storage::use_byte_size_t(), storage.nbytes(),
      c10::DataPtr(const_cast<void*>(storage.data()), c10::Device(c10::DeviceType::CPU)));
  return over(host, tensor, c10::DispatchKey::CPU);
}

at::Tensor to_device(const at::Tensor& host, c10::Device device) {
  if (!host.defined()) {
    return host;
  }
  TORCH_CHECK(
      host.layout() == at::kStrided && !host.is_quantized(), host.layout(),
      " tensors are not simulated; only strided ones are");
  return over(adopt(host.storage(), device), host, backend_of(device.type()).key);
}

at::Tensor Call::seen(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return tensor;
  }
  if (tensor.device().type() != device_.type()) {
    refuse_elsewhere(tensor);
    return tensor;
  }
  if (C10_UNLIKELY(tensor.device() != device_)) {
    refuse_elsewhere(tensor);
  }
  for (const Pair& pair : pairs_) {
    if (pair.original.is_same(tensor)) {
      return pair.host;
    }
  }
  pairs_.push_back({tensor, host_view(tensor)});
  return pairs_.back().host;
}

void Call::refuse_elsewhere(const at::Tensor& tensor) const {
  if (tensor.device().is_cpu() && (tensor.dim() == 0 || takes_host_tensors(op_))) {
    return;
  }
  TORCH_CHECK(
      false, "Expected all tensors to be on the same device, but found at least two devices, ",
      device_, " and ", tensor.device(), "! (when checking arguments of ",
      toString(op_.operator_name()), ")");
}

void Call::enter(torch::jit::Stack& stack) {
  const auto& arguments = op_.schema().arguments();
  const size_t first = stack.size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = stack[first + i];
    if (value.isTensor()) {
      value = seen(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> host;
      host.reserve(value.toListRef().size());
      for (const auto& item : value.toListRef()) {
        host.push_back(seen(item.toTensor()));
      }
      value = std::move(host);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> host;
      for (const auto& item : value.toListRef()) {
        host.push_back(
            item.isNone() ? std::nullopt : std::optional<at::Tensor>(seen(item.toTensor())));
      }
      value = std::move(host);
    } else if (value.isDevice() && value.toDevice().type() == device_.type()) {
      value = c10::Device(c10::DeviceType::CPU);
    } else if (value.isGenerator()) {
      value = host_generator(value.toGenerator());
    } else if (value.isNone() && is_generator(arguments[i])) {
      value = host_generator(default_generator(device_));
    }
  }
}

at::Tensor Call::back(const at::Tensor& host) {
  if (!host.defined()) {
    return host;
  }
  for (const Pair& pair : pairs_) {
    if (pair.host.is_same(host)) {
      return pair.original;
    }
  }
  if (host.device().type() != c10::DeviceType::CPU) {
    return host;
  }
  for (const Pair& pair : pairs_) {
    if (pair.host.storage().is_alias_of(host.storage())) {
      return over(pair.original.storage(), host, backend_of(device_.type()).key);
    }
  }
  return to_device(host, device_);
}

void Call::write_back() {
  for (const Pair& pair : pairs_) {
    follow(pair.original.storage());
    c10::TensorImpl* impl = pair.original.unsafeGetTensorImpl();
    if (pair.host.sizes() != pair.original.sizes() ||
        pair.host.strides() != pair.original.strides() ||
        pair.host.storage_offset() != pair.original.storage_offset()) {
      impl->set_sizes_and_strides(
          pair.host.sizes(), pair.host.strides(), pair.host.storage_offset());
    }
  }
}

void Call::leave(torch::jit::Stack& stack) {
  const auto& schema = op_.schema();
  if (schema.is_mutable()) {
    write_back();
  }
  const size_t results = schema.returns().size();
  const size_t first = stack.size() - results;
  for (size_t i = 0; i < results; ++i) {
    c10::IValue& value = stack[first + i];
    if (value.isTensor()) {
      value = back(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> device;
      for (const auto& item : value.toListRef()) {
        device.push_back(back(item.toTensor()));
      }
      value = std::move(device);
    }
  }
}

c10::Device device_of_call(
    const c10::OperatorHandle& op, const torch::jit::Stack& stack, c10::DeviceType type) {
  const size_t count = op.schema().arguments().size();
  for (const auto& value : torch::jit::last(stack, count)) {
    if (value.isTensor()) {
      if (value.toTensor().defined() && value.toTensor().device().type() == type) {
        return value.toTensor().device();
      }
    } else if (value.isTensorList() || value.isOptionalTensorList()) {
      for (const auto& item : value.toListRef()) {
        if (item.isTensor() && item.toTensor().defined() &&
            item.toTensor().device().type() == type) {
          return item.toTensor().device();
        }
      }
    } else if (value.isDevice() && value.toDevice().type() == type) {
      return settled(value.toDevice());
    }
  }
  return settled(c10::Device(type));
}

}  // namespace accel_simulator
