// Runs an operator of a simulated device on the host.
#pragma once

#include <torch/library.h>

#include "alias.h"

namespace accel_simulator {

void run_on_host(
    const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

// Raises the card's own error where it lacks one of the dtypes of the tensors.
void refuse_dtypes(const c10::OperatorHandle& op, Backend& backend, const torch::jit::Stack& stack);

}  // namespace accel_simulator
