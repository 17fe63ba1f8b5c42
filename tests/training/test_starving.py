"""The worked model's own training on a fake driver: the job says whether it waited for its pictures."""

import json

import numpy as np
import pytest
from PIL import Image

import nvml


def write_pictures(folder, count, width, height):
    """Noise, which is slow to decode, and the normals of a wall."""
    noise = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"axes": "rdf", "coding": "npy", "invalid": "zero"}')
    for kind in ("images", "normals"):
        (folder / kind).mkdir()
    for number in range(count):
        picture = noise.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        wall = np.broadcast_to(np.float32([0, 0, -1]), (height, width, 3))
        np.save(folder / "normals" / f"{number}.npy", wall)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "crop", "waits"), [((1600, 1200), 32, True), ((128, 128), 128, False)], ids=["starved", "fed"]
)
def test_the_real_training_says_whether_it_starves(job, tmp_path, size, crop, waits):
    """Of huge pictures of which it takes tiny crops, and of pictures that are as large as the network's work."""
    driver = nvml.build(tmp_path / "driver")
    nvml.turn(driver, {"0.utilization": 70, "0.memory_used": 15 << 30})
    write_pictures(job.root / "input" / "data" / "train", 4, *size)
    job.hyperparameters(
        size="tiny",
        epochs=5,
        augment="none",
        batch_size=4,
        workers=0,
        crop_height=crop,
        crop_width=crop,
        encoder_weights="random",
    )
    ended = job.end(
        job.start(
            "train",
            MODEL_PACKAGE="surface_normals",
            GPU_METRICS="on",
            METRICS_SINK="off",
            INSTANCE_USD_PER_HOUR="1.41",
            LD_LIBRARY_PATH=str(driver),
            CUDA_VISIBLE_DEVICES="",
            OMP_NUM_THREADS="1",
        ),
        seconds=240,
    )
    assert ended.code == 0, ended.err
    summary = json.loads((job.root / "output/data/gpu-summary.json").read_text())
    assert summary["verdict"].startswith("Training waits for data") == waits, summary
    report = (job.root / "output/data/report.html").read_text().partition("<h2>Use of the GPUs</h2>")[2]
    assert ("Training waits for data" in report) == waits
    assert "<td>utilisation</td><td>70 %" in report
    assert "<td>cost of this host</td>" in report
