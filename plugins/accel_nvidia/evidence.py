"""Whether a machine has anything of NVIDIA: asked of every machine, so it must cost nothing."""

from __future__ import annotations

from accel.machine import Machine

PCI_VENDOR = "10de"
KERNEL_DRIVER = "/proc/driver/nvidia/version"
_OWN_EVIDENCE = (
    (KERNEL_DRIVER,),  # a container or a virtual machine that hides PCI
    ("/dev/dxg", "/usr/lib/wsl/lib/libnvidia-ml.so.1"),  # WSL 2: no PCI, no kernel module
    ("/etc/nv_tegra_release",),  # Jetson: the GPU is no PCI function
)
_WINDOWS_DRIVER = "C:/Windows/System32/DriverStore/FileRepository/nv*/nvlddmkm.sys"


def is_nvidias(machine: Machine) -> bool:
    """Whether anything but a PCI card says that NVIDIA's driver or chip is here."""
    if machine.platform().system == "Windows":
        return bool(machine.glob(_WINDOWS_DRIVER))
    return any(all(machine.exists(path) for path in paths) for paths in _OWN_EVIDENCE)


def present(machine: Machine) -> bool:
    """Whether it is worth looking for devices."""
    return bool(machine.pci_of(PCI_VENDOR)) or is_nvidias(machine)
