"""The serving half: a JSON list or a .npy vector of numbers in, the same times the factor out.

Knobs for tests: `load_seconds` in model.json; a number above 1e6 fails its whole batch;
{"sleep": s} takes its time, {"fail": text} raises a RuntimeError, {"variable": name} returns what
its process has in the environment; {"bytes": n} takes so much memory; {"zeros": n} returns so many;
{"exit": code} ends its thread in `decode`; {"file": path} reads it.
"""

import io
import json
import os
import random
import time
from pathlib import Path

import numpy as np


class Doubling:
    request_types = ("application/json", "application/x-npy")
    response_types = ("application/json", "text/csv", "text/csv;header=present")

    def __init__(self, factor, reference=None):
        self.factor = factor
        self.reference = reference

    def describe(self, value, output):
        return {"first": output[0], "same": 1.0}

    def decode(self, body, media_type):
        if media_type == "application/x-npy":
            return np.load(io.BytesIO(body), allow_pickle=False).astype(float)
        try:
            value = json.loads(body)
        except UnicodeDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if isinstance(value, dict):
            if "exit" in value:
                raise SystemExit(value["exit"])
            return value
        if len(value) > 1000:
            error = ValueError(f"{len(value)} numbers are more than 1000")
            error.status = 413
            raise error
        return [float(number) for number in value]

    def memory_bytes(self, value):
        return value.get("bytes", 0) if isinstance(value, dict) else 0

    def predict(self, inputs):
        return [self._one(value) for value in inputs]

    def _one(self, value):
        if isinstance(value, dict):
            if "fail" in value:
                raise RuntimeError(value["fail"])
            if "variable" in value:
                return [os.environ.get(value["variable"])]
            if "bytes" in value:
                return [float(len(bytearray(value["bytes"])))]
            if "file" in value:
                return [len(Path(value["file"]).read_bytes())]
            if "zeros" in value:
                return [0.0] * value["zeros"]
            time.sleep(value["sleep"])
            return [value["sleep"]]
        if max(value, default=0) > 1e6:
            raise RuntimeError("overflow inside the model")
        return [number * self.factor for number in value]

    def encode(self, output, media_type):
        if media_type == "application/json":
            return json.dumps(output).encode()
        header = "doubled\n" if "header" in media_type else ""
        return (header + ",".join(map(str, output))).encode()


def load(model_dir: Path):
    path = model_dir / "model.json"
    if not path.is_file():
        raise ValueError(f"no model.json in {model_dir}")
    model = json.loads(path.read_text())
    random.seed(0)  # as many a model does
    time.sleep(model.get("load_seconds", 0))
    return Doubling(model["factor"], model.get("reference"))
