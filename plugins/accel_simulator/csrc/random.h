// Generators of simulated devices: a seed and an offset, as on the cards, over the host's engine.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/function_schema.h>

#include "device.h"

namespace accel_simulator {

at::Generator new_generator(c10::Device device);
const at::Generator& default_generator(c10::Device device);

// The engine that one operator draws from, set to where the device's generator stands, which moves
// on. A generator of the host is its own.
at::Generator host_generator(const at::Generator& generator);

bool is_generator(const c10::Argument& argument);

}  // namespace accel_simulator
