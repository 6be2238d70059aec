// Collectives between processes, over gloo, under the name and the limits of a card's library.
#pragma once

#include <pybind11/pybind11.h>

namespace accel_simulator {

void add_collectives(pybind11::module_& m);

}  // namespace accel_simulator
