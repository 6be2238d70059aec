// What is not run by the fallback: making, viewing and copying tensors, and attention.
#pragma once

#include <torch/library.h>

#include "device.h"

namespace accel_simulator {

void register_factories(torch::Library& library);
// A type of its own may share memory with none, but a parameter's data may be given one of the
// host's, as torch_npu has it: parameters stay the objects they are when a model is moved.
void register_own_type(torch::Library& library);
// Cells of LSTM and GRU, and the steps of SyncBatchNorm: torch has one kernel for each on devices,
// and none on the host.
void register_recurrent(torch::Library& library);
void register_sync_norms(torch::Library& library);
void register_attention(torch::Library& library, c10::DeviceType type);
// For XPU: a build without it has no place for a chooser of its kernels.
void register_plain_attention(torch::Library& library);
// Every operator that has a kernel of the host's own runs that one, even where torch has a
// composite of other operators to offer: so a step costs, and gives, what it does on the host.
void register_host_kernels(torch::Library& library, c10::DispatchKey key);
void register_autocast();

}  // namespace accel_simulator
