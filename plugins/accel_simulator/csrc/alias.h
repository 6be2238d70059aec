// A tensor of a simulated device as a tensor of the host, over the same bytes; and the way back.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "memory.h"

#include <optional>
#include <vector>

namespace accel_simulator {

// The host's view of a tensor on a simulated device: nothing is copied.
at::Tensor host_view(const at::Tensor& tensor);

// `host`, a kernel's fresh result, as a tensor of `device`: nothing is copied, memory is counted.
at::Tensor to_device(const at::Tensor& host, c10::Device device);

// The arguments of one call, seen from the host.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op, c10::Device device) : op_(op), device_(device) {}

  // Replaces device tensors and generators among the arguments on the stack.
  void enter(torch::jit::Stack& stack);
  // Puts results on the device: those that are arguments, or views of them, become so again.
  void leave(torch::jit::Stack& stack);

 private:
  struct Pair {
    at::Tensor original;
    at::Tensor host;
  };

  at::Tensor seen(const at::Tensor& tensor);
  at::Tensor back(const at::Tensor& host);
  void refuse_elsewhere(const at::Tensor& tensor) const;
  void write_back();

  const c10::OperatorHandle& op_;
  c10::Device device_;
  c10::SmallVector<Pair, 8> pairs_;
};

// Where a call runs: the device of the first tensor that is on a simulated one, else current.
c10::Device device_of_call(
    const c10::OperatorHandle& op, const torch::jit::Stack& stack, c10::DeviceType type);

}  // namespace accel_simulator
