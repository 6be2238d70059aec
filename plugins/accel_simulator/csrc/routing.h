// torch.distributed's operators on a device type for which torch's build left them out.
#pragma once

namespace accel_simulator {

// For XPU, whose are in torch's builds with XPU alone; once in a process.
void route_collectives();

}  // namespace accel_simulator
