#include "kernels.h"

#include "fallback.h"
#include "memory.h"
#include "random.h"

#include <ATen/EmptyTensor.h>
#include <ATen/TensorUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/Functions.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <c10/core/DeviceGuard.h>

namespace accel_simulator {

namespace {

at::Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
    std::optional<at::Device> device, std::optional<bool> pin_memory,
    std::optional<at::MemoryFormat> format) {
  const c10::Device where = settled(*device);
  operator_runs(backend_of(where.type()), where.index());
  TORCH_CHECK(
      layout.value_or(at::kStrided) == at::kStrided, "only strided tensors are simulated");
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
  const c10::DeviceGuard guard(where);
  return at::detail::empty_generic(
      size, allocator_of(where.type()), c10::DispatchKeySet(backend_of(where.type()).key),
      c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> layout, std::optional<at::Device> device,
    std::optional<bool> pin_memory) {
  const c10::Device where = settled(*device);
  operator_runs(backend_of(where.type()), where.index());
  TORCH_CHECK(
      layout.value_or(at::kStrided) == at::kStrided, "only strided tensors are simulated");
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
  const c10::DeviceGuard guard(where);
  return at::detail::empty_strided_generic(
      size, stride, allocator_of(where.type()),
      c10::DispatchKeySet(backend_of(where.type()).key), c10::dtype_or_default(dtype));
}

at::Tensor seen_from_host(const at::Tensor& tensor) {
  return is_simulated(tensor.device().type()) ? host_view(tensor) : tensor;
}

// A copy on the device casts there, with the card's dtypes; to and from the host, the host casts.
void check_cast(const at::Tensor& to, const at::Tensor& from) {
  if (to.device().type() != from.device().type() || to.scalar_type() == from.scalar_type()) {
    return;
  }
  Backend& backend = backend_of(to.device().type());
  for (const auto dtype : {from.scalar_type(), to.scalar_type()}) {
    const auto found = backend.refused.find(dtype);
    if (found != backend.refused.end() && !found->second.products_only) {
      std::string message = found->second.message;
      const size_t at = message.find("{op}");
      TORCH_CHECK(false, at == std::string::npos ? message : message.replace(at, 4, "Cast"));
    }
  }
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  for (const at::Tensor* tensor : {static_cast<const at::Tensor*>(&self), &source}) {
    if (is_simulated(tensor->device().type())) {
      operator_runs(backend_of(tensor->device().type()), tensor->device().index());
    }
  }
  check_cast(self, source);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  at::Tensor to = seen_from_host(self);
  to.copy_(seen_from_host(source), non_blocking);
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  at::Tensor target = to;
  copy_(target, self, non_blocking);
  return target;
}

at::Tensor& set_storage(
    at::Tensor& self, c10::Storage source, int64_t offset, c10::IntArrayRef size,
    c10::IntArrayRef stride) {
  TORCH_CHECK(
      source.device_type() == self.device().type(), "Attempted to set the storage of a tensor on ",
      self.device(), " to a storage on different device ", source.device(),
      ".  This is no longer allowed; the devices must match.");
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (stride.data() == nullptr || stride.empty() != size.empty()) {
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride);
  }
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage(self, std::move(source), 0, {count}, {1});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(
      self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor& set_nothing(at::Tensor& self) {
  c10::Storage none(
      c10::Storage::use_byte_size_t(), 0, allocator_of(self.device().type()), true);
  return set_storage(self, std::move(none), 0, {0}, {1});
}

// The host's kernel draws from the host's generator, so the mask is drawn here.
std::tuple<at::Tensor, at::Tensor> native_dropout(
    const at::Tensor& input, double p, std::optional<bool> train) {
  if (!train.value_or(true) || p == 0.0 || input.numel() == 0) {
    return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  }
  at::Tensor mask = at::empty_like(input, input.options().dtype(at::kBool)).bernoulli_(1.0 - p);
  const double scale = p == 1.0 ? 0.0 : 1.0 / (1.0 - p);
  return {input.mul(mask).mul_(scale), mask};
}

template <class Function>
at::Tensor on_host(const at::Tensor& tensor, Function function) {
  const c10::Device device = tensor.device();
  operator_runs(backend_of(device.type()), device.index());
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  FitsOn fits(device);
  return to_device(function(host_view(tensor)), device);
}

// Devices read half precision and write float32 in one kernel, which the host has not.
at::Tensor softmax(const at::Tensor& input, int64_t dim, bool to_float) {
  return on_host(input, [&](const at::Tensor& host) {
    return at::_softmax(to_float ? host.to(at::kFloat) : host, dim, false);
  });
}

at::Tensor log_softmax(const at::Tensor& input, int64_t dim, bool to_float) {
  return on_host(input, [&](const at::Tensor& host) {
    return at::_log_softmax(to_float ? host.to(at::kFloat) : host, dim, false);
  });
}

at::Tensor softmax_backward(
    const at::Tensor& gradient, const at::Tensor& output, int64_t dim, at::ScalarType input) {
  return on_host(gradient, [&](const at::Tensor& host) {
    return at::_softmax_backward_data(host, host_view(output), dim, host.scalar_type()).to(input);
  });
}

at::Tensor log_softmax_backward(
    const at::Tensor& gradient, const at::Tensor& output, int64_t dim, at::ScalarType input) {
  return on_host(gradient, [&](const at::Tensor& host) {
    return at::_log_softmax_backward_data(host, host_view(output), dim, host.scalar_type())
        .to(input);
  });
}

bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  const auto dense = [](const at::Tensor& tensor) {
    return tensor.layout() == at::kStrided &&
        (tensor.device().is_cpu() || is_simulated(tensor.device().type()));
  };
  return self.key_set() == from.key_set() || (dense(self) && dense(from));
}

void record_stream(at::Tensor& /*self*/, c10::Stream /*stream*/) {}

}  // namespace

void register_own_type(torch::Library& library) {
  library.impl("_has_compatible_shallow_copy_type", &has_compatible_shallow_copy_type);
}

void register_factories(torch::Library& library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("copy_", &copy_);
  library.impl("_copy_from", &copy_from);
  library.impl("set_.source_Storage", &set_whole_storage);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("set_", &set_nothing);
  library.impl("native_dropout", &native_dropout);
  library.impl("record_stream", &record_stream);
  library.impl("_softmax", &softmax);
  library.impl("_log_softmax", &log_softmax);
  library.impl("_softmax_backward_data", &softmax_backward);
  library.impl("_log_softmax_backward_data", &log_softmax_backward);
}

}  // namespace accel_simulator
