#!/usr/bin/env python3
"""Look at the data before training: does each folder hold what its dataset.json says?

For every folder (a channel: images/, normals/ or depth/, dataset.json) prints sizes, the share of pixels with
truth, of normals of length 1, and of surfaces that face the camera under each axes convention: the right one
has nearly 100 %. With several folders, also the pictures that more than one of them holds. Writes a sheet of
samples with their normals in the usual colours. Ends with 1 when training would refuse a folder.
"""

import argparse
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "container"))

from surface_normals import axes
from surface_normals.codecs import lilac
from surface_normals.training.dataset import PictureDataset, Sample
from surface_normals.training.dataset_check import Findings, inspect, shared_pictures, spread

PAIRS_A_ROW, ROWS_A_FOLDER = 4, 3
TILE_WIDTH, TILE_HEIGHT = 160, 120
MAX_DAMAGED_SHOWN = 10


def main() -> None:
    arguments = parse_arguments()
    try:
        datasets = [PictureDataset(str(folder), folder) for folder in arguments.folder]
    except ValueError as error:
        sys.exit(f"REFUSED  {error}")
    refused = False
    for dataset in datasets:
        indices = spread(len(dataset), arguments.sample or len(dataset))
        findings = inspect(dataset, tqdm(indices, unit=" pictures", disable=None, leave=False))
        print_findings(findings)
        refused = refused or findings.refusal is not None
    for first, second in combinations(datasets, 2):
        if shared := shared_pictures(first, second):
            print(
                f"{first.folder} and {second.folder}\n  warning  {len(shared)} pictures are in both, as {shared[0]}"
            )
    write_sheet(datasets, arguments.sheet)
    print(f"{arguments.sheet}: samples with their normals")
    sys.exit(1 if refused else 0)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="what would be a channel of the training job")
    parser.add_argument("--sample", type=int, help="read only so many pictures of each folder (all)")
    parser.add_argument(
        "--sheet", type=Path, default=Path("dataset-check.png"), help="the sheet's file (dataset-check.png)"
    )
    arguments = parser.parse_args()
    if arguments.sample is not None and arguments.sample < 1:
        parser.error(f"--sample is {arguments.sample}: at least 1 picture must be read")
    return arguments


def print_findings(findings: Findings) -> None:
    dataset = findings.dataset
    declared = dataset.description.axes
    sizes = ", ".join(f"{n} of {width}x{height}" for (width, height), n in findings.sizes.most_common(3))
    more = f" and {len(findings.sizes) - 3} sizes more" if len(findings.sizes) > 3 else ""
    print(dataset.folder)
    print(f"  pictures            {len(dataset)}, {findings.looked_at} read: {sizes}{more}")
    print(f"  camera              {camera(findings)}")
    print(f"  pixels with truth   {percent(findings.valid / max(1, findings.pixels))}")
    print(f"  normals of length 1 {percent(findings.share(findings.unit))}")
    for name in axes.TO_RDF:
        mark = "  <- declared" if name == declared else ""
        print(f"  facing as {name:9} {percent(findings.facing_share(name))}{mark}")
    print(f"  floors that face up {percent(findings.up_share)}")
    for text in findings.damaged[:MAX_DAMAGED_SHOWN]:
        print(f"  damaged  {text}")
    if len(findings.damaged) > MAX_DAMAGED_SHOWN:
        print(f"  damaged  and {len(findings.damaged) - MAX_DAMAGED_SHOWN} files more")
    for text in findings.warnings():
        print(f"  warning  {text}")
    if findings.refusal:
        print(f"  REFUSED  {findings.refusal}")


def camera(findings: Findings) -> str:
    if findings.cameras_known:
        return "as the data say"
    return "unknown, 60 degrees assumed: shares below 100 % may come from that"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def write_sheet(datasets: list[PictureDataset], path: Path) -> None:
    """Samples of each folder from left to right, each as a picture and its normals; black has no truth."""
    rows = []
    for dataset in datasets:
        tiles = [
            tile
            for index in spread(len(dataset), PAIRS_A_ROW * ROWS_A_FOLDER)
            for tile in pair(dataset, index)
        ]
        while len(tiles) % (2 * PAIRS_A_ROW):
            tiles.append(np.full((TILE_HEIGHT, TILE_WIDTH, 3), 255, np.uint8))
        rows += [np.hstack(tiles[at : at + 2 * PAIRS_A_ROW]) for at in range(0, len(tiles), 2 * PAIRS_A_ROW)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(path)


def pair(dataset: PictureDataset, index: int) -> list[np.ndarray]:
    try:
        sample: Sample = dataset[index]
    except ValueError:  # damaged, as the table says
        return []
    colours = lilac(sample.normals) * sample.valid[:, :, None]
    return [tile(sample.picture, Image.Resampling.BILINEAR), tile(colours, Image.Resampling.NEAREST)]


def tile(picture: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """A picture, with its proportions kept, on white of the tiles' size."""
    image = Image.fromarray(picture)
    scale = min((TILE_WIDTH - 4) / image.width, (TILE_HEIGHT - 4) / image.height)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling
    )
    canvas = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), "white")
    canvas.paste(image, ((TILE_WIDTH - image.width) // 2, (TILE_HEIGHT - image.height) // 2))
    return np.asarray(canvas)


if __name__ == "__main__":
    main()
