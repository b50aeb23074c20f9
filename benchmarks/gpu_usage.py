"""Memory and utilisation of the GPUs while something runs, sampled in a thread from the driver's library (NVML).

Sampling never fails what it watches: what could not be read is said in the summary.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import NamedTuple

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
UNKNOWN_BYTES = 2**64 - 1  # NVML: the driver does not know
INSUFFICIENT_SIZE = 7  # NVML_ERROR_INSUFFICIENT_SIZE


class UsageError(RuntimeError):
    """The driver's library is missing, or it answered with an error."""


class MemoryStruct(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class UtilizationStruct(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class ProcessStruct(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class Nvml:
    """The few functions of NVML that are needed; every one raises UsageError with NVML's code when it fails."""

    def __init__(self, library=None):
        self._library = library or _load()
        self._call("nvmlInit_v2")

    def _call(self, name: str, *arguments) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise UsageError(f"{name} failed with code {code}")

    def close(self) -> None:
        self._call("nvmlShutdown")

    def driver_version(self) -> str:
        text = ctypes.create_string_buffer(96)
        self._call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def handles(self) -> list[ctypes.c_void_p]:
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        found = [ctypes.c_void_p() for _ in range(count.value)]
        for index, handle in enumerate(found):
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        return found

    def name(self, handle) -> str:
        text = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", handle, text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def memory(self, handle) -> tuple[int, int]:
        """(used, total) bytes."""
        memory = MemoryStruct()
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return memory.used, memory.total

    def utilization(self, handle) -> int:
        """Percent of the driver's last sampling period in which a kernel ran."""
        utilization = UtilizationStruct()
        self._call("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(utilization))
        return utilization.gpu

    def processes(self, handle) -> dict[int, int]:
        """Bytes on the device by process id, of the processes whose memory the driver knows."""
        count = ctypes.c_uint(32)
        while True:
            found = (ProcessStruct * count.value)()
            code = self._library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), found)
            if code == INSUFFICIENT_SIZE:
                continue  # with the count that it gave
            if code:
                raise UsageError(f"nvmlDeviceGetComputeRunningProcesses_v3 failed with code {code}")
            return {p.pid: p.used for p in found[: count.value] if p.used != UNKNOWN_BYTES}


def _load():
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UsageError(f"no {LIBRARIES[0]} on this machine")


class Series:
    """Peak and mean of what was sampled."""

    def __init__(self):
        self.count, self.total, self.peak = 0, 0, None

    def add(self, value: int) -> None:
        self.count += 1
        self.total += value
        self.peak = value if self.peak is None else max(self.peak, value)

    def summary(self) -> dict | None:
        return {"peak": self.peak, "mean": self.total / self.count, "samples": self.count} if self.count else None


class Watched(NamedTuple):
    """One device: ``used`` bytes by all, ``own`` bytes of the watched processes, ``busy`` percent."""

    handle: ctypes.c_void_p
    description: dict
    used: Series
    own: Series
    busy: Series


class GpuUsage:
    """Samples every device each ``interval`` seconds, as a context; then :meth:`summary`.

    is_own: whether a process id is one of those whose memory is counted apart; None counts none.
    open_driver: makes the :class:`Nvml` to ask.
    """

    def __init__(
        self,
        interval: float = 0.5,
        is_own: Callable[[int], bool] | None = None,
        open_driver: Callable[[], Nvml] = Nvml,
    ):
        self._interval, self._is_own, self._open = interval, is_own, open_driver
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu usage", daemon=True)
        self._devices: list[Watched] = []
        self._missing: dict[str, str] = {}
        self._driver = None

    def __enter__(self) -> "GpuUsage":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(timeout=10)  # a driver that hangs must not keep the record from being written

    def _watch(self) -> None:
        try:
            nvml = self._open()
        except Exception as error:
            self._missing["devices"] = str(error)
            return
        try:
            self._driver = nvml.driver_version()
            self._devices = [self._describe(nvml, i, handle) for i, handle in enumerate(nvml.handles())]
            while True:
                for device in self._devices:
                    self._sample(nvml, device)
                if self._stop.wait(self._interval):
                    break
            nvml.close()
        except Exception as error:
            self._missing["sampling"] = str(error)

    @staticmethod
    def _describe(nvml: Nvml, index: int, handle) -> Watched:
        used, total = nvml.memory(handle)
        description = {"index": index, "name": nvml.name(handle), "total_bytes": total, "used_bytes_at_start": used}
        return Watched(handle, description, Series(), Series(), Series())

    def _sample(self, nvml: Nvml, device: Watched) -> None:
        self._add("used_bytes", device.used, lambda: nvml.memory(device.handle)[0])
        self._add("utilisation_percent", device.busy, lambda: nvml.utilization(device.handle))
        if self._is_own is not None:
            self._add("own_bytes", device.own, lambda: self._own_bytes(nvml, device))

    def _own_bytes(self, nvml: Nvml, device: Watched) -> int | None:
        """Bytes of the watched processes; None where the driver names none of them."""
        own = [used for pid, used in nvml.processes(device.handle).items() if self._is_own(pid)]
        return sum(own) if own else None

    def _add(self, what: str, series: Series, read: Callable[[], int | None]) -> None:
        """One sample; what is not supported here (a share of a device, an old driver) is noted once."""
        try:
            value = read()
        except Exception as error:
            self._missing[what] = str(error)
            return
        if value is not None:
            series.add(value)

    def summary(self) -> dict:
        """Devices with their peaks and means, and by name what is ``missing`` and why."""
        missing = dict(self._missing)
        devices = []
        for device in self._devices:
            row = {**device.description, "used_bytes": device.used.summary()}
            row |= {"utilisation_percent": device.busy.summary(), "own_bytes": device.own.summary()}
            devices.append(row)
        if self._is_own is not None and devices and all(row["own_bytes"] is None for row in devices):
            missing.setdefault(
                "own_bytes", "the driver named no process of the command: it used no device, or its ids are hidden here"
            )
        return {
            "interval_seconds": self._interval,
            "driver": self._driver,
            "devices": devices,
            "missing": missing,
        }
