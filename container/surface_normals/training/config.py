"""The hyperparameters: every one with its type, its unit in the name or help, and its range."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _number(default: Any, help: str, minimum: Any = None, maximum: Any = None) -> Any:
    limits = {"minimum": minimum, "maximum": maximum}
    return field(
        default=default, metadata={"help": help, **{k: v for k, v in limits.items() if v is not None}}
    )


def _choice(default: str, help: str, *choices: str) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


ENCODERS = ("resnet18", "resnet50", "mobilenet_v3_large", "convnext_tiny", "convnext_small", "convnext_base")


@dataclass(frozen=True)
class Config:
    """Defaults suit fine-tuning at 640x480; the ranges catch slips, they are not advice."""

    size: str = _choice(
        "M",
        "network: `tiny` (0.5 M parameters), `S` (resnet18 encoder, 12 M), `M` (convnext_tiny, 29 M) or "
        "`L` (convnext_base, 89 M)",
        "tiny",
        "S",
        "M",
        "L",
    )
    encoder: str = field(
        default="",
        metadata={
            "help": "another encoder than the size's own: "
            + ", ".join(f"`{name}`" for name in ENCODERS)
            + ", or "
            "`timm:NAME`, any model of the timm library"
        },
    )
    encoder_weights: str = field(
        default="imagenet",
        metadata={
            "help": "start of the encoder: `imagenet` (a file in channel `pretrained`), the path of such a file, or "
            "`random`; `tiny`'s own is always random"
        },
    )
    intrinsics: str = _choice(
        "assume",
        "camera whose rays the network sees: the `given` one of each picture, one of 60 degrees (`assume`), or `off`",
        "given",
        "assume",
        "off",
    )
    loss: str = _choice(
        "angmf",
        "what is minimised: the Angular von Mises-Fisher likelihood (`angmf`), the angle (`angular`) or 1 - its cosine "
        "(`cosine`); the expected error is learnt with each",
        "angmf",
        "angular",
        "cosine",
    )
    epochs: int = _number(20, "passes over the training pictures", 1, 100_000)
    batch_size: int | Literal["auto"] = _number(
        8,
        "pictures a step; `auto`: the largest power of two up to 256 that the GPU has memory for (the learning rate "
        "stays)",
        1,
        4096,
    )
    accumulate: int = _number(
        1, "portions that a step's pictures go through the network in, to need the memory of one", 1, 4096
    )
    sharding: str = _choice(
        "none",
        "with several GPUs: each has the whole network (`none`), or a part of each weight (`full`, for networks that "
        "one GPU has no room to train)",
        "none",
        "full",
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "a faster step by torch.compile, after a minute or more at its start; needs a C "
            "compiler in the image"
        },
    )
    precision: str = _choice(
        "auto",
        "what the network computes in; `auto`: bfloat16 on GPUs that have it, else float16, on CPUs float32",
        "auto",
        "float32",
        "bfloat16",
        "float16",
    )
    learning_rate: float = _number(1e-3, "peak rate of AdamW for what starts at random", 1e-7, 1.0)
    loaded_rate_share: float = _number(
        0.1,
        "the rate of loaded weights, as a share: of an encoder's, or of all with a channel `model`",
        0.0,
        1.0,
    )
    weight_decay: float = _number(0.01, "decoupled decay of matrices (not of norms and biases)", 0.0, 1.0)
    warmup_share: float = _number(
        0.05, "share of the steps in which the rate rises; then it falls as a cosine", 0.0, 0.5
    )
    clip_norm: float = _number(1.0, "largest norm of all gradients together", 1e-6, 1e6)
    ema_decay: float = _number(
        0.999, "decay a step of the averaged weights, which are the model", 0.0, 0.99999
    )
    crop_height: int = _number(480, "height in pixels of a training crop, a multiple of 32", 32, 4096)
    crop_width: int = _number(640, "width in pixels of a training crop, a multiple of 32", 32, 4096)
    augment: str = _choice(
        "auto",
        "changes of the training pictures: `none` (random windows only), `light` (mirrored, brightness, contrast), "
        "`full` (also zoom, colours, blur, motion, coarseness, noise, JPEG: for long runs); `auto`: `full` where "
        "epochs x pictures are 100000 or more, else `light`",
        "auto",
        "none",
        "light",
        "full",
    )
    roll_degrees: float = _number(
        0.0, "largest random turn of the camera about its axis; normals turn with it", 0.0, 180.0
    )
    evaluate_epochs: int = _number(1, "epochs between two measurements on channel `validation`", 1, 100_000)
    checkpoint_minutes: float = _number(5.0, "minutes between two checkpoints", 0.0, 1440.0)
    export: str = _choice(
        "none",
        "what the finished model is also written as, a minute each: `torch` (model.pt2), `onnx` (model.onnx), `all`",
        "none",
        "torch",
        "onnx",
        "all",
    )
    tensorboard: bool = field(
        default=False, metadata={"help": "also write TensorBoard events to `/opt/ml/output/tensorboard`"}
    )
    workers: int = _number(2, "processes that read pictures; 0 reads in the training process", 0, 256)
    seed: int = _number(0, "seed of the start, the order and the augmentation", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        for name in ("crop_height", "crop_width"):
            if getattr(self, name) % 32:
                raise ValueError(f"{name}={getattr(self, name)} is not a multiple of 32")
        if self.encoder and self.encoder not in ENCODERS and not self.encoder.startswith("timm:"):
            raise ValueError(f"encoder={self.encoder} is none of {', '.join(ENCODERS)}, nor timm:NAME")
        if self.encoder_weights not in ("imagenet", "random") and "/" not in self.encoder_weights:
            raise ValueError(
                f"encoder_weights={self.encoder_weights} is neither imagenet nor random, nor a path with a /"
            )
        if self.compile and self.sharding == "full":
            raise ValueError("compile=true and sharding=full do not go together: choose one")
        if self.batch_size == "auto" and self.sharding == "full":
            raise ValueError(
                "batch_size=auto is for GPUs that have the whole network; with sharding=full name a number"
            )

    @property
    def pictures_a_step(self) -> int:
        """`batch_size` of a run that has begun: a number by now."""
        if isinstance(self.batch_size, str):
            raise ValueError(f"batch_size={self.batch_size} is not settled yet")
        return self.batch_size
