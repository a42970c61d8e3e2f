"""What is extracted and how: stored with the results, and compared before results are added."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from midway_zoo.checks import check_fields, field_range, is_integer, is_number
from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.images import Size

PARTS = ("features", "motion", "flow")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What determines the results of an extraction. Two runs into one folder must have the same settings.

    Raises:
        InputError: for a value that makes no sense.
    """

    what: tuple[str, ...] = ("features",)
    """One or more of "features", "motion" and "flow"."""
    blocks: tuple[int, ...] | None = None
    """Encoder blocks whose maps are kept as features, 0-based; None for the last, () for the class token alone."""
    stride: int = field_range(1, at_least=1)
    """For clips: take frames 0, stride, 2 * stride, ..."""
    fps: float | None = None
    """For videos, instead of ``stride``: take the first frame at or after each multiple of 1 / fps seconds."""
    size: Size = None
    """Size that frames are resized to; see :func:`midway_zoo.extract_features`."""
    flow_size: Size = None
    """The same for the flow; None for ``size``. See :func:`midway_zoo.predict_flow`."""
    method: Literal["auto", "head", "perturbation"] = field_range("auto", choices=("auto", "head", "perturbation"))
    """Method of the flow."""
    dtype: Literal["float32", "float16", "bfloat16"] = field_range(
        "float32", choices=("float32", "float16", "bfloat16")
    )
    """Data type in which the network computes and tensors are stored (bfloat16 becomes float32 in Parquet)."""
    images: Literal["each", "clip"] | None = None
    """Whether each image file is an item, or those of a folder are one clip. None: "each" for features alone, else
    "clip"."""
    chunk: int = field_range(64, at_least=1)
    """Frames of a clip that are stored together; fewer if they would take more than 128 MB."""
    format: Literal["parquet", "safetensors"] = field_range("parquet", choices=("parquet", "safetensors"))

    def __post_init__(self) -> None:
        check_fields(self, error=InputError)
        unknown = [part for part in self.what if part not in PARTS]
        if unknown or not self.what:
            raise InputError(f"what={','.join(self.what)!r}: some of {', '.join(PARTS)} are expected.")
        object.__setattr__(self, "what", tuple(part for part in PARTS if part in self.what))
        if self.fps is not None and (not is_number(self.fps) or self.fps <= 0 or self.stride != 1):
            raise InputError(f"fps={self.fps!r}: a positive number of frames per second is expected, without a stride.")
        if self.blocks is not None and not all(is_integer(block, 0) for block in self.blocks):
            raise InputError(f"blocks={self.blocks!r}: block indices from 0 are expected.")
        if self.images not in ("each", "clip", None):
            raise InputError(f'images={self.images!r}: "each" or "clip" is expected.')
        if self.images == "each" and self.pairs:
            raise InputError('motion and flow lie between the frames of a clip: images="each" leaves none; use "clip".')

    @property
    def pairs(self) -> bool:
        """Whether anything is wanted that needs two frames."""
        return "motion" in self.what or "flow" in self.what

    @property
    def images_are(self) -> Literal["each", "clip"]:
        """``images``, with None resolved."""
        return self.images or ("clip" if self.pairs else "each")

    def for_network(self, config: MidwayConfig) -> None:
        """Raise :class:`InputError` or :class:`ConfigError` for settings that do not fit a network."""
        if self.blocks and max(self.blocks) >= config.depth:
            raise InputError(f"blocks={list(self.blocks)}: the network has blocks 0 to {config.depth - 1}.")
        if self.pairs and not config.dynamics:
            raise ConfigError(
                "this network is an encoder alone: features can be extracted, motion and flow need its dynamics."
            )

    def kept_blocks(self, config: MidwayConfig) -> tuple[int, ...]:
        """``blocks``, with None resolved, in order."""
        return (config.depth - 1,) if self.blocks is None else tuple(sorted(set(self.blocks)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def check_same(saved: dict[str, Any], asked: dict[str, Any], where: str) -> None:
    """Raise :class:`ConfigError`, naming every difference, unless results in a folder were made with the same facts."""
    keys = dict.fromkeys([*saved, *asked])
    different = [
        f"{key}: {saved.get(key)!r} there, {asked.get(key)!r} now" for key in keys if saved.get(key) != asked.get(key)
    ]
    if different:
        raise ConfigError(
            f"{where} holds results of other settings ({'; '.join(different)}). Nothing was changed: give the same "
            "settings to continue it, or another OUT."
        )
