"""The serving half: a JSON list of numbers in, the same list times the factor out.

A request may be poisoned: a number above 1e6 fails its whole batch, {"sleep": s} takes its time.
"""

import json
import time
from pathlib import Path


class Doubling:
    request_types = ("application/json",)
    response_types = ("application/json", "text/csv")

    def __init__(self, factor):
        self.factor = factor

    def decode(self, body, media_type):
        try:
            value = json.loads(body)
        except UnicodeDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        if isinstance(value, dict):
            return {"sleep": float(value["sleep"])}
        return [float(number) for number in value]

    def predict(self, inputs):
        return [self._one(value) for value in inputs]

    def _one(self, value):
        if isinstance(value, dict):
            time.sleep(value["sleep"])
            return [value["sleep"]]
        if max(value, default=0) > 1e6:
            raise RuntimeError("overflow inside the model")
        return [number * self.factor for number in value]

    def encode(self, output, media_type):
        if media_type == "text/csv":
            return ",".join(map(str, output)).encode()
        return json.dumps(output).encode()


def load(model_dir: Path):
    path = model_dir / "model.json"
    if not path.is_file():
        raise ValueError(f"no model.json in {model_dir}")
    return Doubling(json.loads(path.read_text())["factor"])
