#!/usr/bin/env python3
"""Make a folder that training reads from a public data set, or from the files of an RGB-D camera.

  nyuv2     nyu_depth_v2_labeled.mat; normals from the sensor's depth, without the frame that it does not see
  diode     the folder of DIODE Depth's train.tar.gz or val.tar.gz; normals from its depth
  hypersim  a folder of scenes (ai_001_001, ...) with their final_preview and geometry_hdf5; normals as rendered
  rgbd      two folders with the same file names: pictures, and depth as 16-bit PNG, .npy or .npz

Writes images/, normals/ (float16, axes rdf), cameras/ and, at the end, dataset.json: without it, training takes
no folder for a data set. Mind the data sets' own licences.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from surface_normals import axes
from surface_normals.training.cameras import Intrinsics, rays, read_intrinsics
from surface_normals.training.dataset import MEDIA_TYPES
from surface_normals.training.depth_normals import WINDOW, normals_from_depth, z_from_ray_length
from surface_normals.training.truth import MIN_LENGTH
from surface_normals.training.truth_files import read_depth

MIN_VALID_SHARE = 0.01

# The toolbox of NYUv2 counts pixel centres from 1, as MATLAB does; here the first is at 0.5.
NYUV2_CAMERA = Intrinsics(518.857901, 519.469611, 325.582449 - 0.5, 253.736166 - 0.5)
NYUV2_SEEN = (slice(45, 472), slice(43, 608))
"""Rows and columns that the depth sensor sees; the rest is a white frame or made up."""
DIODE_CAMERA, DIODE_SIZE = Intrinsics(886.81, 927.06, 512.0, 384.0), (1024, 768)
HYPERSIM_CAMERA, HYPERSIM_SIZE = Intrinsics(886.81, 886.81, 512.0, 384.0), (1024, 768)

Normals = NDArray[np.float32]


@dataclass(frozen=True)
class Converted:
    """One picture with its truth, on its way into the new folder."""

    name: str
    picture: Path | NDArray[np.uint8]
    """a file to copy, or uint8 (H, W, 3)"""
    normals: Normals
    """(H, W, 3), `rdf`, unit, zero where there is no truth"""
    camera: Intrinsics


def main() -> None:
    arguments = parse_arguments()
    try:
        kept, left_out = write(arguments.out, arguments.convert(arguments), arguments.format)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"convert_dataset: {error}")
    print(f"{arguments.out}: {kept} pictures; {left_out} left out, which have hardly any truth")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    formats = parser.add_subparsers(dest="format", required=True)
    nyuv2 = formats.add_parser("nyuv2", help="nyu_depth_v2_labeled.mat")
    nyuv2.add_argument("source", type=Path, help="nyu_depth_v2_labeled.mat")
    nyuv2.add_argument("--splits", type=Path, help="splits.mat, with the official split")
    nyuv2.add_argument(
        "--part", choices=("train", "test"), help="the part of the split to take (all pictures)"
    )
    nyuv2.set_defaults(convert=from_nyuv2)
    diode = formats.add_parser("diode", help="DIODE Depth")
    diode.add_argument("source", type=Path, help="the unpacked folder, train/indoors for example")
    diode.set_defaults(convert=from_diode)
    hypersim = formats.add_parser("hypersim", help="Hypersim")
    hypersim.add_argument("source", type=Path, help="the folder of the scenes")
    hypersim.set_defaults(convert=from_hypersim)
    rgbd = formats.add_parser("rgbd", help="pictures and depth of an RGB-D camera")
    rgbd.add_argument("source", type=Path, help="the folder of the pictures")
    rgbd.add_argument(
        "--depth", type=Path, required=True, help="the folder of the depth, with the same names"
    )
    rgbd.add_argument("--camera", type=Path, required=True, help="a JSON file with fx, fy, cx, cy in pixels")
    rgbd.add_argument("--depth-is", choices=("z", "ray"), default="z", help="z, or the length of the ray (z)")
    rgbd.set_defaults(convert=from_rgbd)
    for each in (nyuv2, diode, rgbd):
        each.add_argument(
            "--window",
            type=int,
            default=WINDOW,
            choices=(3, 5, 7, 9, 11),
            help=f"pixels a plane is fitted to ({WINDOW})",
        )
    for each in (nyuv2, diode, hypersim, rgbd):
        each.add_argument("out", type=Path, help="where to; must not exist or be empty")
    arguments = parser.parse_args()
    if arguments.format == "nyuv2" and (arguments.splits is None) != (arguments.part is None):
        parser.error("--splits and --part go together")
    return arguments


def from_nyuv2(arguments: argparse.Namespace) -> Iterator[Converted]:
    """MATLAB's arrays appear with their dimensions reversed: images (N, 3, W, H), rawDepths (N, W, H) in metres."""
    import h5py  # not in the training image, where the others run too
    import scipy.io

    with h5py.File(arguments.source) as file:
        chosen = range(len(file["images"]))
        if arguments.splits:
            numbers = scipy.io.loadmat(arguments.splits)[f"{arguments.part}Ndxs"]
            chosen = [int(number) - 1 for number in numbers.ravel()]
        for index in chosen:
            depth = np.zeros(file["rawDepths"].shape[:0:-1], np.float32)
            depth[NYUV2_SEEN] = file["rawDepths"][index].T[NYUV2_SEEN]
            normals, _ = normals_from_depth(depth, NYUV2_CAMERA, window=arguments.window)
            picture = np.ascontiguousarray(file["images"][index].transpose(2, 1, 0))
            yield Converted(f"{index + 1:04}", picture, normals, NYUV2_CAMERA)


def from_diode(arguments: argparse.Namespace) -> Iterator[Converted]:
    """NAME.png, NAME_depth.npy (H, W, 1) in metres, NAME_depth_mask.npy (H, W), in folders of scenes and scans."""
    for path in found(arguments.source, "*_depth.npy"):
        picture = path.with_name(path.name.replace("_depth.npy", ".png"))
        depth = read_depth(path, "npy") * (np.load(path.with_name(path.stem + "_mask.npy")) > 0)
        camera = DIODE_CAMERA.scaled(depth.shape[1] / DIODE_SIZE[0], depth.shape[0] / DIODE_SIZE[1])
        normals, _ = normals_from_depth(depth, camera, window=arguments.window)
        yield Converted(name_of(picture, arguments.source), picture, normals, camera)


def from_hypersim(arguments: argparse.Namespace) -> Iterator[Converted]:
    """SCENE/images/scene_CAM_geometry_hdf5/frame.0000.normal_cam.hdf5 and ..._final_preview/frame.0000.tonemap.jpg."""
    import h5py

    for path in found(arguments.source, "frame.*.normal_cam.hdf5"):
        frame = path.name.split(".")[1]
        preview = path.parent.name.replace("geometry_hdf5", "final_preview")
        picture = path.parent.with_name(preview) / f"frame.{frame}.tonemap.jpg"
        with h5py.File(path) as file:
            normals = unit(axes.convert(file["dataset"][:].astype(np.float32), "rub"))
        height, width = normals.shape[:2]
        camera = HYPERSIM_CAMERA.scaled(width / HYPERSIM_SIZE[0], height / HYPERSIM_SIZE[1])
        # Some artists' surfaces point away from whoever looks at them.
        away = (normals * rays(camera, height, width)).sum(axis=2, keepdims=True) > 0
        scene = path.relative_to(arguments.source).parts[:-3] or (arguments.source.resolve().name,)
        name = "/".join([*scene, path.parent.name.removesuffix("_geometry_hdf5"), frame])
        yield Converted(name, picture, np.where(away, -normals, normals), camera)


def from_rgbd(arguments: argparse.Namespace) -> Iterator[Converted]:
    """Depth in any unit: a normal does not depend on it."""
    camera = read_intrinsics(arguments.camera)
    codings = {".png": "png16", ".npy": "npy", ".npz": "npz"}
    for picture in found(arguments.source, "*"):
        if picture.suffix.lower() not in MEDIA_TYPES:
            continue
        stem = arguments.depth / picture.relative_to(arguments.source).with_suffix("")
        paths = [path for path in stem.parent.glob(f"{stem.name}.*") if path.suffix.lower() in codings]
        if len(paths) != 1:
            raise ValueError(f"{picture} has {len(paths)} files {stem}.png, .npy or .npz; it needs one")
        depth = read_depth(paths[0], codings[paths[0].suffix.lower()])
        if arguments.depth_is == "ray":
            depth = z_from_ray_length(depth, camera)
        normals, _ = normals_from_depth(depth, camera, window=arguments.window)
        yield Converted(name_of(picture, arguments.source), picture, normals, camera)


def found(folder: Path, pattern: str) -> list[Path]:
    """Files below `folder`, in order. Raises ValueError when there is none."""
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise ValueError(f"no {pattern} below {folder}")
    return paths


def name_of(picture: Path, folder: Path) -> str:
    return picture.relative_to(folder).with_suffix("").as_posix()


def unit(vectors: Normals) -> Normals:
    """Vectors (H, W, 3) at length 1; zero where they are too short, or no numbers."""
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    usable = np.isfinite(length) & (length > MIN_LENGTH)
    return np.where(usable, vectors / np.where(usable, length, 1), 0).astype(np.float32)


def write(out: Path, samples: Iterator[Converted], source: str) -> tuple[int, int]:
    """Write a data set; how many pictures it has, and how many have too little truth for it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder: remove it or name another")
    kept = left_out = 0
    for sample in tqdm(samples, unit=" pictures", disable=None):
        if sample.normals.any(axis=2).mean() < MIN_VALID_SHARE:
            left_out += 1
            continue
        ending = sample.picture.suffix if isinstance(sample.picture, Path) else ".png"
        picture, normals, camera = (
            out / kind / f"{sample.name}{suffix}"
            for kind, suffix in (("images", ending), ("normals", ".npy"), ("cameras", ".json"))
        )
        for path in (picture, normals, camera):
            path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(sample.picture, Path):
            shutil.copyfile(sample.picture, picture)
        else:
            Image.fromarray(sample.picture).save(picture)
        np.save(normals, sample.normals.astype(np.float16))
        camera.write_text(json.dumps(sample.camera._asdict()))
        kept += 1
    if not kept:
        raise ValueError(f"no picture with truth was found: {left_out} have hardly any")
    description = {"axes": "rdf", "coding": "npy", "invalid": "zero", "converted_from": source}
    (out / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    return kept, left_out


if __name__ == "__main__":
    main()
