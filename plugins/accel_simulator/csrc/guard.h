// Streams, events and the current device. Work is done when it is called, so nothing ever waits.
#pragma once

#include "device.h"

namespace accel_simulator {

void register_guard(c10::DeviceType type);

}  // namespace accel_simulator
