"""What the machine has, peak speed and memory, and how much of it a step uses."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from lib.faults import RunError

# Dense peak in FLOP/s without sparsity, (bf16, fp32 as torch computes it by default), from the vendors' data sheets.
# The first part that is found in the device's name counts: the longer names stand first.
_PEAKS = {
    "H200 NVL": (835e12, 60e12),
    "H200": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30e12),
    "RTX 4090": (165e12, 83e12),
    "RTX 3090": (71e12, 36e12),
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The device's peak in FLOP/s for matrix products in `dtype`; None where it is not known, as on CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = [peaks for part, peaks in _PEAKS.items() if part in name]
    return found[0][0 if dtype == torch.bfloat16 else 1] if found else None


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free in torch's own pool
        return torch.cuda.mem_get_info(device)[0] + kept
    with suppress(OSError):
        available = int(Path("/proc/meminfo").read_text(encoding="utf-8").split("MemAvailable:")[1].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError):  # a container's limit; "max" is none
            limit = int((group / "memory.max").read_text(encoding="utf-8"))
            return min(available, limit - int((group / "memory.current").read_text(encoding="utf-8")))
        return available
    return None


def forget_peak(device: torch.device) -> int:
    """Starts `peak_memory` anew, and returns what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with suppress(OSError):  # not Linux, or not allowed: the peak is of the process's whole life
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Bytes. On CUDA what torch had allocated at most, elsewhere the largest resident set of this process; 0 where the
    system does not say. On Linux that is not read from getrusage: ru_maxrss of a process begins with that of the
    process that started it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        return int(Path("/proc/self/status").read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) * 1024
    with suppress(ImportError):
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def check_room(name: str, parameters: int, dtype: torch.dtype, device: torch.device, training: bool = False) -> None:
    """Raises RunError where a model of so many parameters cannot fit into the memory that is free. `training`: 32 bytes
    each, the peak that was measured of an eager step: weights and Adam's two averages, the new ones beside the old, and
    gradients as they are and clipped. Activations are not counted."""
    free, each = free_memory(device), 32 if training else dtype.itemsize
    if free is None or parameters * each <= free:
        return
    purpose = {32: "for a step of training with Adam", 4: "in fp32", 2: "in bf16"}[each]
    where = "the GPU" if device.type == "cuda" else "this machine"
    message = f"{name} needs {parameters * each / 1e9:.1f} GB {purpose}, {where} has {free / 1e9:.1f} GB free"
    raise RunError(message + (f": --precision bf16 needs {parameters * 2 / 1e9:.1f} GB" if each == 4 else ""))


class Throughput:
    """Units (tokens, images) per second between two readings and model FLOPs utilisation, over the time between each
    `begin` and `end`, without the first step, which compiles."""

    def __init__(self, unit: str = "examples", peak: float | None = None) -> None:
        self.unit, self.peak, self.flops_per_unit = unit, peak, 0
        self.first = 0.0  # seconds of the first step
        self.units: int | Tensor = 0
        self.seconds, self.since = 0.0, time.perf_counter()

    def begin(self) -> None:
        self.since = time.perf_counter()

    def end(self, units: int | Tensor, wait_for: Tensor | None) -> None:
        """A step is over; `wait_for` is a result of it that is waited for, in the first step and before a pause."""
        if wait_for is not None:
            wait_for.sum().item()
        self.seconds, self.units = self.seconds + time.perf_counter() - self.since, self.units + units
        if not self.first:
            self.first, self.seconds, self.units = self.seconds, 0.0, 0

    def read(self) -> dict[str, float]:
        """Since the last reading: units per second and, where the device's peak is known, the share of it used."""
        units, seconds = float(self.units), self.seconds
        self.units, self.seconds = 0, 0.0
        if not units:
            return {}
        rate = units / seconds
        mfu = {"perf/mfu": rate * self.flops_per_unit / self.peak} if self.peak and self.flops_per_unit else {}
        return {f"perf/{self.unit}_per_second": rate} | mfu
