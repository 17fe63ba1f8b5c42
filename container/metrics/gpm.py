"""How busy the parts of a GPU are (NVML's GPM, from Hopper on): sampled by the agent beside the rest.

Utilisation says that some kernel ran, these say how much of the chip it used. Two samples of the
counters, at least 100 ms apart, give the means between them; no daemon and no lock is involved.
"""

import logging
import math
from typing import Any

import pynvml

FIGURES = {
    pynvml.NVML_GPM_METRIC_SM_UTIL: "sm_active_percent",
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: "tensor_active_percent",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "memory_bandwidth_percent",
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC: "nvlink_received_mebibytes_per_second",
    pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC: "nvlink_sent_mebibytes_per_second",
}

_log = logging.getLogger(__name__)


class Gpm:
    """The counters of one GPU; where the driver has none, or refuses them, every reading is empty."""

    def __init__(self, index: int, handle: Any) -> None:
        self._handle = handle
        self._samples: list[Any] = []
        try:
            if pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                self._samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
                pynvml.nvmlGpmSampleGet(handle, self._samples[0])
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
            self._samples = []
        except pynvml.NVMLError as error:  # a container may lack the permission
            self._samples = []
            _log.info("GPU %d does not show its activity counters (%s): left out", index, error)

    def read(self) -> dict[str, float]:
        """Means since the last call, by GpuSample's names; what is not known is left out. Raises NVMLError."""
        if not self._samples:
            return {}
        before, now = self._samples
        pynvml.nvmlGpmSampleGet(self._handle, now)
        self._samples = [now, before]
        asked = pynvml.c_nvmlGpmMetricsGet_t(
            version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=len(FIGURES), sample1=before, sample2=now
        )
        for place, metric in enumerate(FIGURES):
            asked.metrics[place].metricId = metric
        pynvml.nvmlGpmMetricsGet(asked)
        answers = [(asked.metrics[place], name) for place, name in enumerate(FIGURES.values())]
        return {
            name: float(f"{answer.value:.4g}")
            for answer, name in answers
            if answer.nvmlReturn == pynvml.NVML_SUCCESS and math.isfinite(answer.value)
        }
