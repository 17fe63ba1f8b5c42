"""The smallest model that goes through both contracts: it "learns" to multiply by `factor`.

The two knobs `fail` and `step_seconds` let tests see what the layers do with a model that fails
or takes its time.
"""

import json
import os
import signal
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Config:
    factor: int = field(default=2, metadata={"help": "what to multiply by", "minimum": 1, "maximum": 10})
    steps: int = field(default=3, metadata={"help": "steps to take", "minimum": 1})
    rate: float = field(default=0.1, metadata={"help": "a number", "minimum": 0.0})
    verbose: bool = field(default=False, metadata={"help": "say more"})
    step_seconds: float = field(default=0.0, metadata={"help": "how long a step lasts"})
    fail: str = field(default="no", metadata={"help": "how to end", "choices": ("no", "data", "bug", "kill")})


def train(config, *, channels, model_dir, output_dir, checkpoint_dir, report, should_stop):
    checkpoint = checkpoint_dir / "step"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    while step < config.steps and not should_stop():
        time.sleep(config.step_seconds)
        step += 1
        if config.fail == "data":
            raise ValueError(f"picture {sorted(channels)[0]}/b.jpg is not a picture")
        if config.fail == "bug":
            raise KeyError("nobody expected this")
        if config.fail == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        report("train_loss", 1 / step, step)
        write(checkpoint, str(step))
    write(model_dir / "model.json", json.dumps({"factor": config.factor, "steps": step}))


def write(path, text):
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)
