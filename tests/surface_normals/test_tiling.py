"""Large pictures in tiles: the same answer as whole, in less memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from surface_normals.codecs import MAX_PIXELS, MAX_TILED_PIXELS
from surface_normals.network import Shape, SurfaceNormalNetwork
from surface_normals.onnx_engine import OnnxEngine
from surface_normals.tiling import run_in_tiles, tiles_of
from surface_normals.torch_engine import TorchEngine
from surface_normals.training.evaluation import angular_error_degrees

SMALL = Shape("plain", (8, 16, 16, 16), 16)
CPU = torch.device("cpu")


def network(shape=SMALL):
    torch.manual_seed(0)
    return SurfaceNormalNetwork(shape).eval()


def scene(height, width, seed=0):
    """Soft colours and a little noise."""
    row, column = np.mgrid[:height, :width] / max(height, width)
    smooth = np.stack([column, row, np.cos(5 * column + 3 * row)], axis=2) * 90 + 110
    return (smooth + np.random.default_rng(seed).normal(0, 5, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (100, 260), (256, 128)])
def test_each_pixel_is_in_one_core_and_margins_are_round_it(height, width):
    covered = np.zeros((height, width), int)
    for tile in tiles_of(height, width, core=64, margin=32):
        covered[tile.core] += 1
        for seen, core, length in zip(tile.seen, tile.core, (height, width), strict=True):
            assert seen.start == max(0, core.start - 32)
            assert seen.stop == min(length, core.stop + 32)
    assert (covered == 1).all()


def test_tiles_are_the_whole_to_a_hundredth_of_a_degree():
    """A smooth scene may differ by half a degree on the mean; here no pixel differs by more than a fifth of that."""
    picture = scene(192, 320)
    ((whole,), (whole_errors,)) = TorchEngine(network(), CPU).run(picture[None])
    normals, errors = run_in_tiles(network(), picture, CPU, core=64, margin=112)
    difference = angular_error_degrees(normals, whole)
    assert difference.mean() < 0.01
    assert difference.max() < 0.1
    assert np.abs(errors - whole_errors).max() < 0.1
    # The tiles by themselves are another thing: what is tested above is not that the network hardly looks.
    alone = TorchEngine(network(), CPU).run(picture[None, :176, :176])[0][0]
    assert angular_error_degrees(alone[:64, :64], whole[:64, :64]).mean() > 0.5


def test_the_engine_tiles_what_is_larger_than_it_takes_whole():
    engine = TorchEngine(network(), CPU, whole_pixels=10_000)
    pictures = np.stack([scene(112, 96, seed) for seed in (1, 2)])
    normals, errors = engine.run(pictures)
    expected, expected_errors = TorchEngine(network(), CPU).run(pictures)
    assert angular_error_degrees(normals, expected).max() < 0.1
    assert errors == pytest.approx(expected_errors, abs=0.1)
    assert engine.max_pixels == MAX_TILED_PIXELS >= 8000 * 6000


def test_onnx_leaves_what_is_larger_to_torch(exported_model, caplog):
    caplog.set_level("INFO")
    pictures = scene(112, 96)[None]
    engine = OnnxEngine(exported_model, whole_pixels=10_000)
    assert engine.max_pixels == MAX_TILED_PIXELS
    engine.run(pictures[:, :64])
    assert not caplog.messages
    normals, errors = engine.run(pictures)
    (line,) = caplog.messages
    assert "torch predicts such, in tiles" in line
    expected, expected_errors = OnnxEngine(exported_model).run(pictures)
    assert angular_error_degrees(normals, expected).max() < 0.1
    assert errors == pytest.approx(expected_errors, abs=0.1)


def test_a_network_that_looks_at_everything_by_other_means_is_never_tiled():
    engine = TorchEngine(network(Shape("mobilenet_v3_large", (), 16)), CPU, whole_pixels=1000)
    assert engine.max_pixels == MAX_PIXELS
    assert engine.run(scene(64, 64)[None])[0].shape == (1, 64, 64, 3)


PEAKS = """
import re, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, {container!r})
from surface_normals.network import SHAPES, SurfaceNormalNetwork
from surface_normals.tiling import run_in_tiles
from surface_normals.torch_engine import TorchEngine

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
engine = TorchEngine(SurfaceNormalNetwork(SHAPES["tiny"]), torch.device("cpu"))
engine.run(np.zeros((1, 64, 64, 3), np.uint8))
picture = np.zeros((1, 1024, 1024, 3), np.uint8)
for run in (lambda: run_in_tiles(engine.network, picture[0], engine.device, core=256, margin=32),
            lambda: engine.run(picture)):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kilobytes("VmRSS")
    run()
    print(kilobytes("VmHWM") - before)
"""


@pytest.mark.slow
def test_tiles_need_a_fraction_of_the_memory():
    code = PEAKS.format(container=str(Path(__file__).resolve().parents[2] / "container"))
    # glibc keeps more or less of what is free, as it happens; so it gives every large block back at once.
    frugal = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=True, env=frugal
    )
    tiled, whole = map(int, done.stdout.split())
    assert tiled < whole / 3
