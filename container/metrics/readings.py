"""How a figure is asked for where NVML has more than one name for it: by the driver's age, by the GPU's.

Symbols that a driver lacks raise NVMLError_FunctionNotFound, figures that a GPU lacks NVMLError_NotSupported.
"""

from collections.abc import Iterator
from typing import Any

import pynvml


def memory(handle: Any) -> Any:
    """With `used` and `total`, bytes. Before driver 510 what the driver keeps for itself counts as used."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def clock_reasons(handle: Any) -> int:
    """Why the clock is not higher, as a bit mask. The newer name came with driver 535."""
    try:
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError_FunctionNotFound:
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return int(reasons)


def uncorrected_errors(handle: Any) -> int:
    """Uncorrected memory errors since the driver was loaded."""
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, pynvml.NVML_VOLATILE_ECC))


def replaced_memory(handle: Any) -> int:
    """Rows of memory replaced because of such errors, one more once a row could not be; before Ampere, pages."""
    try:
        _, uncorrected, _, has_failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        cause = pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR
        return len(pynvml.nvmlDeviceGetRetiredPages(handle, cause))
    return int(uncorrected) + int(has_failed)


def mig_devices(handle: Any) -> Iterator[Any]:
    """Of a GPU in MIG mode, the handles of those of its devices that this container sees; else nothing."""
    try:
        if pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return
        places = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError:
        return
    for place in places:
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except pynvml.NVMLError:  # most places are empty
            continue
