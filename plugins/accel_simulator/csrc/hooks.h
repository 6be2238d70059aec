// What torch asks of a backend: is it there, its generators, pinned memory.
#pragma once

#include "device.h"

namespace accel_simulator {

void register_hooks(c10::DeviceType type);

}  // namespace accel_simulator
