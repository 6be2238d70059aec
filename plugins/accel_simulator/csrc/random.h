// Generators of simulated devices: the host's engine, under the device's name and seed.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/function_schema.h>

#include "device.h"

namespace accel_simulator {

at::Generator new_generator(c10::Device device);
const at::Generator& default_generator(c10::Device device);

// The engine that kernels draw from; a generator of the host is its own.
at::Generator host_generator(const at::Generator& generator);

bool is_generator(const c10::Argument& argument);

}  // namespace accel_simulator
