#pragma once

#include <optional>

namespace accel_simulator {

// How many devices torch's autograd serves in this process; nothing before its first backward,
// which counts them, once and for good.
std::optional<long> devices_of_autograd();

}  // namespace accel_simulator
