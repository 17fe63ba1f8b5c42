"""From a worker to the metrics agent: once a second, what its requests were.

Nothing is done while a request is answered: the figures are differences of the counters that
/metrics keeps anyway, read by a thread of its own and sent without waiting.
"""

import threading
from collections.abc import Mapping

from metrics.work import WorkSender
from serving.request_metrics import RequestMetrics

SECONDS_BETWEEN_REPORTS = 1.0
MILLISECONDS = 1000


class WorkReport:
    """Tells the agent at `address`; without one it does nothing."""

    def __init__(self, metrics: RequestMetrics, address: str | None) -> None:
        self._metrics = metrics
        self._address = address
        self._sender = WorkSender(address)
        self._before: Mapping[str, float] = {}
        self._sending = threading.Lock()

    def start(self) -> None:
        """Send each second from now on, in the background."""
        if self._address is not None:
            threading.Thread(target=self._run, name="work report", daemon=True).start()

    def send(self) -> None:
        """Tell what is new since the last time: before the process ends, for example."""
        with self._sending:
            totals = self._metrics.totals()
            new = {name: total - self._before.get(name, 0.0) for name, total in totals.items()}
            self._before = totals
            self._sender.send(**figures(new), in_flight=totals["in_flight"])

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(SECONDS_BETWEEN_REPORTS):
            self.send()


def figures(new: Mapping[str, float]) -> dict[str, float]:
    """What the agent is told of a second, by the names of `metrics.period`: sums, and means of what happened."""
    told = {"requests": new["requests"], "errors": new["errors"]}
    for stage in ("request", "decode", "queue", "predict", "encode"):
        if count := new.get(f"{stage}_count"):
            told[f"{stage}_milliseconds"] = round(MILLISECONDS * new[f"{stage}_sum"] / count, 3)
    if batches := new.get("batch_count"):
        told["batch_size"] = round(new["batch_sum"] / batches, 3)
        told["predict_seconds"] = round(new.get("predict_sum", 0.0), 6)
    return told
