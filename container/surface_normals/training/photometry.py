"""Random changes of a picture that its surfaces do not have: light, colours, lens, sensor, file."""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from surface_normals.codecs import Picture

LIGHT_JITTER = 0.2
"""Largest change of brightness and contrast, as a share of the full range."""

# Of change_camera: how often, and how much.
COLOURS_SHARE, COLOURS_JITTER, CHANNEL_JITTER, GAMMA_JITTER = 0.8, 0.4, 0.1, 0.3
GREY_SHARE = 0.05
SMALL_SHARE, SMALLEST = 0.1, 0.2
BLUR_SHARE, BLUR_SIGMA_PIXELS = 0.1, (0.3, 2.0)
MOTION_SHARE, MOTION_PIXELS = 0.1, (3, 11)
NOISE_SHARE, NOISE_SIGMA = 0.1, (0.01, 0.05)
JPEG_SHARE, JPEG_QUALITY = 0.1, (20, 95)


def change_light(picture: Picture, random: np.random.Generator) -> Picture:
    """Contrast and brightness, each by up to LIGHT_JITTER."""
    contrast, brightness = 1 + LIGHT_JITTER * random.uniform(-1, 1, 2)
    levels = np.arange(256, dtype=np.float32)
    table = (((levels - 127.5) * contrast + 127.5) * brightness).clip(0, 255).astype(np.uint8)
    changed: Picture = table.take(picture)  # twice as fast as table[picture]
    return changed


def change_camera(picture: Picture, random: np.random.Generator) -> Picture:
    """As another camera might have taken and stored it: each change now and then, in the order of their causes."""
    image = Image.fromarray(picture)
    if random.random() < COLOURS_SHARE:
        image = _change_colours(image, random)
    if random.random() < GREY_SHARE:
        image = image.convert("L").convert("RGB")
    if random.random() < SMALL_SHARE:
        image = _enlarge_from(image, random.uniform(SMALLEST, 1))
    if random.random() < MOTION_SHARE:
        image = _move(image, random)
    if random.random() < BLUR_SHARE:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(*BLUR_SIGMA_PIXELS)))
    if random.random() < NOISE_SHARE:
        image = _add_noise(image, random)
    if random.random() < JPEG_SHARE:
        image = _store_as_jpeg(image, int(random.integers(*JPEG_QUALITY)))
    return np.asarray(image)


def _change_colours(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Saturation, contrast, brightness, gamma, and the balance of the three colours."""
    saturation, contrast, brightness = 1 + COLOURS_JITTER * random.uniform(-1, 1, 3)
    gamma = np.exp(GAMMA_JITTER * random.uniform(-1, 1))
    balance = 1 + CHANNEL_JITTER * random.uniform(-1, 1, 3)
    levels = ((np.linspace(0, 1, 256) - 0.5) * contrast + 0.5).clip(0, 1) ** gamma
    tables = (255 * brightness * balance[:, None] * levels).clip(0, 255).round().astype(int)
    return ImageEnhance.Color(image).enhance(saturation).point(tables.ravel().tolist())


def _enlarge_from(image: Image.Image, scale: float) -> Image.Image:
    """As of a smaller picture that was enlarged."""
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


def _move(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Blurred along a straight line, as by a camera that moved while it was open. The border goes on beyond itself."""
    length, angle = random.uniform(*MOTION_PIXELS), random.uniform(0, np.pi)
    along = np.linspace(-1, 1, int(np.ceil(length))) * (length - 1) / 2
    reach = MOTION_PIXELS[1] // 2
    padded = np.pad(np.asarray(image), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros((image.height, image.width, 3), np.uint16)
    for row, column in np.stack([along * np.sin(angle), along * np.cos(angle)], axis=1).round().astype(int):
        top, left = reach + row, reach + column
        total += padded[top : top + image.height, left : left + image.width]
    return Image.fromarray((total / len(along)).round().astype(np.uint8))


def _add_noise(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Normally distributed, of one strength for the whole picture."""
    pixels = np.asarray(image)
    sigma = 255 * random.uniform(*NOISE_SIGMA)
    noisy = pixels + np.float32(sigma) * random.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def _store_as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
