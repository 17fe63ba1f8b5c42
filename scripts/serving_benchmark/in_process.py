"""The limit: decode, predict, encode in a loop, without any server. A process of its own, asked line by line.

`in_process.py MODEL_DIR`; a question is {"engine", "threads", "batch", "seconds"} as a line of JSON, the
answer {"rate"}: images a second.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving_benchmark.servers import CONTAINER
from serving_benchmark.workload import FULL_ANSWER_TYPE, REQUEST_TYPE, picture


@dataclass(frozen=True)
class Way:
    """One way to do it."""

    engine: str
    threads: int
    batch: int


class InProcess:
    """The other end: the process that answers."""

    def __init__(self, model_dir: Path) -> None:
        settings = ["OMP_WAIT_POLICY=PASSIVE", "THP_MEM_ALLOC_ENABLE=1"]  # as `serve` has them
        code = "from serving_benchmark.in_process import main; main()"
        path = f"PYTHONPATH={CONTAINER}:{CONTAINER.parent / 'scripts'}"
        self._process = subprocess.Popen(
            ["env", path, *settings, sys.executable, "-c", code, str(model_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, way: Way, seconds: float) -> float:
        """Images a second, from at least two batches."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({**asdict(way), "seconds": seconds}), file=self._process.stdin, flush=True)
        return float(json.loads(self._process.stdout.readline())["rate"])

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    """Answer until nobody asks any more."""
    model_dir, body = Path(sys.argv[1]), picture()
    models: dict[tuple[str, int], Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        key = question["engine"], question["threads"]
        models.setdefault(key, _load(model_dir, *key))
        rate = _rate(models[key], body, question["batch"], question["seconds"], threads=question["threads"])
        print(json.dumps({"rate": rate}), flush=True)


def _load(model_dir: Path, engine: str, threads: int) -> Any:
    from surface_normals import predictor

    return predictor.load(model_dir, engine=engine, threads=threads)


def _rate(model: Any, body: bytes, batch: int, seconds: float, *, threads: int) -> float:
    import torch

    torch.set_num_threads(threads)  # of the whole process: another way may have been asked for before

    def work() -> None:
        for output in model.predict([model.decode(body, REQUEST_TYPE) for _ in range(batch)]):
            model.encode(output, FULL_ANSWER_TYPE)

    work()
    started, images = time.perf_counter(), 0
    while images < 2 * batch or time.perf_counter() - started < seconds:
        work()
        images += batch
    return images / (time.perf_counter() - started)
