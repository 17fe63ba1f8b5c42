"""The training that one writes in an afternoon: resnet18-UNet, Adam at one rate, the angle as loss, mirrored pictures.

Nothing of this project's training is in it. It has an advantage that is not in the text book either: all
pictures are in memory before its time begins.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

LEARNING_RATE = 3e-4  # Adam's own default of 1e-3 was 3 degrees behind here after 240 steps
BATCH_SIZE = 8
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class UNet(nn.Module):
    """Picture (B, 3, H, W), normalised, to unit normals of the same size; H and W are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = resnet18(weights=None)
        self.encoder.fc = nn.Identity()
        self.up = nn.ModuleList(
            [
                two_convolutions(512 + 256, 256),
                two_convolutions(256 + 128, 128),
                two_convolutions(128 + 64, 64),
                two_convolutions(64 + 64, 32),
                two_convolutions(32, 16),
            ]
        )
        self.last = nn.Conv2d(16, 3, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        encoder = self.encoder
        half = encoder.relu(encoder.bn1(encoder.conv1(x)))
        quarter = encoder.layer1(encoder.maxpool(half))
        eighth = encoder.layer2(quarter)
        sixteenth = encoder.layer3(eighth)
        x = encoder.layer4(sixteenth)
        for up, skip in zip(self.up, (sixteenth, eighth, quarter, half, None), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(x if skip is None else torch.cat([x, skip], dim=1))
        return F.normalize(self.last(x), dim=1)


def two_convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [
            nn.Conv2d(channels, channels_out, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def load(folder: Path) -> tuple[Tensor, Tensor]:
    """All pictures, normalised, and their normals in `rdf` (zero where there is none), float32 (N, 3, H, W)."""
    pictures, normals = [], []
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        pictures.append((pixels - MEAN) / STD)
        stored = np.load(folder / "normals" / f"{path.stem}.npy").astype(np.float32)
        normals.append(F.normalize(torch.from_numpy(stored).permute(2, 0, 1), dim=0))
    return torch.stack(pictures), torch.stack(normals)


def angle_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean angle in radians over the pixels that have truth."""
    cosine = (prediction * truth).sum(dim=1)
    valid = truth.abs().sum(dim=1) > 0
    # acos has an infinite slope at 1 and -1.
    return torch.acos(cosine[valid].clamp(-1 + 1e-6, 1 - 1e-6)).mean()


def train(
    pictures: Tensor,
    normals: Tensor,
    *,
    seed: int,
    epoch_done: Callable[[nn.Module, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train until `should_stop`, asked after each step; `epoch_done` gets the network and the steps so far."""
    torch.manual_seed(seed)
    network, step = UNet(), 0
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    while True:
        network.train()
        for batch in torch.randperm(len(pictures)).split(BATCH_SIZE):
            picture, truth = pictures[batch], normals[batch]
            mirrored = torch.rand(len(batch)) < 0.5
            picture[mirrored] = picture[mirrored].flip(-1)
            truth[mirrored] = truth[mirrored].flip(-1) * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
            loss = angle_loss(network(picture), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if should_stop():
                break
        epoch_done(network, step)
        if should_stop():
            return


@torch.inference_mode()
def predict(network: nn.Module, pictures: Tensor) -> Tensor:
    """Normals (N, 3, H, W) in `rdf`."""
    network.eval()
    return torch.cat([network(batch) for batch in pictures.split(BATCH_SIZE)])
