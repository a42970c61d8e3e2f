"""Files in the released checkpoint layout, for any configuration, and tools to damage them.

The names and shapes are written down here from the description of the layout, a second time and
without the package's own tables, so that the two can disagree.
"""

import hashlib
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from midway_zoo import MidwayConfig
from tests.weights.as_trained import GRAD_SCALER, adamw, namespace, save, state_dict

TINY = MidwayConfig(
    embed_dim=24,
    depth=4,
    num_heads=3,
    patch_size=8,
    grid=(2, 2),
    feature_blocks=(0, 1, 2, 3),
    motion_dim=12,
    motion_tokens=4,
    midway_depth=1,
    forward_depth=2,
)
"""A network of 0.2 M parameters: the smallest that has every kind of tensor, gates included."""

DROP: Any = type("Drop", (), {"__repr__": lambda self: "DROP"})()
"""As a value of ``args_overrides``: leave the key out."""

_ARCH = {(192, 3): "vit_tiny", (384, 6): "vit_small", (768, 12): "vit_base", (1024, 16): "vit_large"}


class Entry(NamedTuple):
    """One tensor: its name in a released file (without ``module.``), its name in ours, its shape."""

    released: str
    ours: str
    shape: tuple[int, ...]


def _norm(released: str, ours: str, width: int) -> Iterator[Entry]:
    yield Entry(f"{released}.weight", f"{ours}.weight", (width,))
    yield Entry(f"{released}.bias", f"{ours}.bias", (width,))


def _linear(released: str, ours: str, rows: int, columns: int, *, bias: bool = True) -> Iterator[Entry]:
    yield Entry(f"{released}.weight", f"{ours}.weight", (rows, columns))
    if bias:
        yield Entry(f"{released}.bias", f"{ours}.bias", (rows,))


def _mlp(released: str, ours: str, width: int, hidden: int) -> Iterator[Entry]:
    yield from _linear(f"{released}.fc1", f"{ours}.fc1", hidden, width)
    yield from _linear(f"{released}.fc2", f"{ours}.fc2", width, hidden)


def _attention(released: str, ours: str, width: int, *, qkv_bias: bool = False) -> Iterator[Entry]:
    yield from _linear(f"{released}.qkv", f"{ours}.qkv", 3 * width, width, bias=qkv_bias)
    yield from _linear(f"{released}.proj", f"{ours}.proj", width, width)


def _block(released: str, ours: str, width: int, *, qkv_bias: bool = False) -> Iterator[Entry]:
    yield from _norm(f"{released}.norm1", f"{ours}.norm1", width)
    yield from _attention(f"{released}.attn", f"{ours}.attn", width, qkv_bias=qkv_bias)
    yield from _norm(f"{released}.norm2", f"{ours}.norm2", width)
    yield from _mlp(f"{released}.mlp", f"{ours}.mlp", width, 4 * width)


def _backward(released: str, ours: str, width: int) -> Iterator[Entry]:
    yield from _norm(f"{released}.norm1", f"{ours}.norm1", width)
    yield from _attention(f"{released}.attn", f"{ours}.attn", width)
    for letter in "qkv":
        theirs = f"{released}.cross_attn.proj{letter}"
        yield from _linear(theirs, f"{ours}.cross_attn.{letter}", width, width, bias=False)
    yield from _linear(f"{released}.cross_attn.proj", f"{ours}.cross_attn.proj", width, width)
    yield from _norm(f"{released}.norm2", f"{ours}.norm2", width)
    yield from _norm(f"{released}.norm3", f"{ours}.norm3", width)
    yield from _mlp(f"{released}.mlp", f"{ours}.mlp", width, 4 * width)
    yield from _norm(f"{released}.norm_y", f"{ours}.norm_memory", width)


def encoder_entries(config: MidwayConfig) -> list[Entry]:
    """The tensors of one encoder; our names are those of timm's VisionTransformer."""
    width, patch = config.embed_dim, config.patch_size
    tokens = 1 + math.prod(config.grid)
    entries = [
        Entry("backbone.cls_token", "cls_token", (1, 1, width)),
        Entry("backbone.pos_embed", "pos_embed", (1, tokens, width)),
        Entry("backbone.patch_embed.proj.weight", "patch_embed.proj.weight", (width, 3, patch, patch)),
        Entry("backbone.patch_embed.proj.bias", "patch_embed.proj.bias", (width,)),
    ]
    for index in range(config.depth):
        entries += _block(f"backbone.blocks.{index}", f"blocks.{index}", width, qkv_bias=True)
    return [*entries, *_norm("backbone.norm", "norm", width)]


def head_entries(config: MidwayConfig, hidden: int = 16, bottleneck: int = 8, out: int = 32) -> list[Entry]:
    """The tensors of one projection head, which no network keeps (so they have no name of ours)."""
    entries = [
        *_linear("dino_head.mlp.0", "", hidden, config.embed_dim),
        *_linear("dino_head.mlp.2", "", hidden, hidden),
        *_linear("dino_head.mlp.4", "", bottleneck, hidden),
        Entry("dino_head.last_layer.weight_g", "", (out, 1)),
        Entry("dino_head.last_layer.weight_v", "", (out, bottleneck)),
    ]
    return [Entry(entry.released, "", entry.shape) for entry in entries]


def dynamics_entries(config: MidwayConfig) -> list[Entry]:
    """The tensors of ``motion_loss``, in the order of the released files."""
    width, motion = config.embed_dim, config.motion_dim
    tokens = 1 + math.prod(config.grid)
    entries = [
        Entry("pos_embed", "pos_embed", (1, 2 * tokens, motion)),
        Entry("motion_tokens", "motion_tokens", (1, config.motion_tokens, motion)),
    ]
    for level in range(3):
        entries += _backward(f"student_feature_blocks_{level}.0", f"source_backward.{level}", width)
    entries += _linear("student_embed", "source_embed", motion, width)
    for level in range(3):
        for block in range(config.midway_depth):
            entries += _block(f"motion_blocks_{level}.{block}", f"midway.{level}.{block}", motion)
    entries += _linear("motion_proj", "motion_proj", width, motion)
    for level in range(3):
        for gate in range(config.forward_depth - 1):
            released, ours = f"gating_mlps_{level}.{gate}", f"forward_dynamics.{level}.gates.{gate}"
            entries += _norm(f"{released}.norm_layer", f"{ours}.norm", width)
            entries += _mlp(f"{released}.mlp", f"{ours}.mlp", width, width)
    for level in range(3):
        for block in range(config.forward_depth):
            entries += _block(f"forward_predictor_{level}.{block}", f"forward_dynamics.{level}.blocks.{block}", width)
    entries += _linear("teacher_embed", "target_embed", motion, width)
    for level in range(3):
        entries += _backward(f"teacher_feature_blocks_{level}.0", f"target_backward.{level}", width)
    return entries


def formula_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers that depend on the name, the shape and the seed alone, of the order that networks have."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    values = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(shape).astype(np.float32)
    if name.endswith("weight_g") or (len(shape) == 1 and name.endswith("weight")):
        values = 1 + 0.1 * values
    elif len(shape) == 1:
        values = 0.05 * values
    else:
        values = values / math.sqrt(2500 if shape[0] == 1 else math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def released_args(config: MidwayConfig, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The run's configuration as plain values; nested ``overrides`` replace, :data:`DROP` leaves out."""
    resolution = list(config.img_size)
    args = {
        "experiment": "main",
        "sub_dir": "midway_${dataset}",
        "output_dir": "${oc.env:HOME}/runs/${experiment}/${sub_dir}",
        "arch": _ARCH.get((config.embed_dim, config.num_heads), "vit_nano"),
        "patch_size": config.patch_size,
        "out_dim": 32,
        "norm_last_layer": False,
        "momentum_teacher": 0.996,
        "num_register_tokens": 0,
        "use_fp16": True,
        "epochs": 300,
        "lr": 0.0005,
        "optimizer": "adamw",
        "global_crops_scale": [0.4, 1.0],
        "global_crop_resolution": resolution,
        "motion_crop_resolution": resolution,
        "motion_crop_ratio": [0.75, 1.3333],
        "motion_crop_jitter": None,
        "motion_affine_aug_params": {},
        "midway_weights": [1, 1, 1],
        "motion_feature_levels": list(config.feature_blocks),
        "midway_model_configs": {
            "motion_out_dim": 4096,
            "use_pos_embed": True,
            "feature_block_type": "cross",
            "feature_depth": 1,
            "num_feature_heads": config.backward_heads,
            "shared_feature_block": False,
            "train_lateral": True,
            "use_cls_token": True,
            "motion_dim": config.motion_dim,
            "motion_depth": config.midway_depth,
            "num_motion_heads": config.midway_heads,
            "motion_tokens": config.motion_tokens,
            "motion_agg_type": "add",
            "shared_motion": False,
            "motion_pred_input": True,
            "gating_type": "pred-vector",
            "gating_bias": config.gate_bias,
            "gating_tau": None,
            "pred_type": "self",
            "predictor_depth": config.forward_depth,
            "num_pred_heads": config.forward_heads,
            "pos_embed_mode": "learn",
            "pred_tau": None,
            "pred_registers": 0,
            "shared_forward": False,
            "motion_head_type": "identity",
            "target_type": "forward",
        },
        "dataset": "bdd100k",
        "delta_t": [15, 30],
        "seed": 0,
    }
    return _merged(args, overrides or {})


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **overrides}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping):
            merged[key] = _merged(values[key], value)
    return {key: value for key, value in merged.items() if value is not DROP}


def released_checkpoint(
    config: MidwayConfig,
    *,
    seed: int = 0,
    args_overrides: Mapping[str, Any] | None = None,
    args: Literal["omegaconf", "plain", "namespace"] = "omegaconf",
    optimizer: bool = True,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """What a released file holds; see :func:`write_released`."""

    def part(name: str, prefix: str, entries: list[Entry]) -> "OrderedDict[str, Tensor]":
        names = {f"{prefix}{entry.released}": entry.shape for entry in entries}
        return state_dict({key: formula_tensor(f"{name}/{key}", shape, seed).to(dtype) for key, shape in names.items()})

    encoder = encoder_entries(config) + head_entries(config)
    student, teacher = part("student", "module.", encoder), part("teacher", "", encoder)
    dynamics = part("motion_loss", "module.", dynamics_entries(config))
    values: Any = released_args(config, args_overrides)
    if args == "omegaconf":
        from omegaconf import OmegaConf

        values = OmegaConf.create(values)
    elif args == "namespace":
        values = namespace(values)
    trained = [*student.values(), *(value for name, value in dynamics.items() if "teacher" not in name)]
    return {
        "student": student,
        "teacher": teacher,
        **({"optimizer": adamw(trained)} if optimizer else {}),
        "epoch": 300,
        "args": values,
        "fp16_scaler": GRAD_SCALER,
        "dino_loss": state_dict({"center": formula_tensor("dino_loss/center", (1, 32), seed)}),
        "motion_loss": dynamics,
    }


def write_released(
    path: Path,
    config: MidwayConfig = TINY,
    *,
    edit: Callable[[dict[str, Any]], Any] | None = None,
    numpy: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Write a ``.pth`` as the authors' loop does (see :mod:`tests.weights.as_trained`) and return what it holds.

    Args:
        path: where to.
        config: the network's shape. ``args`` of the file say ``arch: vit_nano`` (three heads) unless width and
            head count are those of a larger architecture.
        edit: changes the checkpoint before it is written.
        numpy: 1 or 2, the version of NumPy whose names the scalars have.
        **options: ``seed`` of the numbers; ``args_overrides`` (nested, :data:`DROP` removes a key); ``args``,
            "omegaconf", "plain" or "namespace"; ``optimizer``, False for a file without; ``dtype`` of all weights.
    """
    checkpoint = released_checkpoint(config, **options)
    if edit is not None:
        edit(checkpoint)
    save(checkpoint, path, numpy=numpy)
    return checkpoint


def expected_state(
    checkpoint: Mapping[str, Any],
    config: MidwayConfig = TINY,
    *,
    encoder: Literal["teacher", "student"] = "teacher",
    paired: bool = False,
) -> dict[str, Tensor]:
    """The state dict that a network read from ``checkpoint`` must have."""
    rooms = {"encoder": "student", "target_encoder": "teacher"} if paired else {"encoder": encoder}
    state = {}
    for room, part in rooms.items():
        prefix = "module." if part == "student" else ""
        for entry in encoder_entries(config):
            state[f"{room}.{entry.ours}"] = checkpoint[part][prefix + entry.released]
    for entry in dynamics_entries(config):
        state[f"dynamics.{entry.ours}"] = checkpoint["motion_loss"][f"module.{entry.released}"]
    return state


def assert_same_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Same names, types, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


Edit = bytes | None | Callable[[bytes], bytes]


def edit_zip(path: Path, edits: Mapping[str, Edit]) -> None:
    """Rewrite entries of a ``torch.save`` zip, with correct sizes and CRCs.

    Args:
        path: the file, rewritten in place.
        edits: by name below the zip's folder (``data.pkl``, ``data/7``): the new content, a function of the old
            one, or None to remove the entry.
    """
    with zipfile.ZipFile(path) as source:
        entries = {info.filename: source.read(info) for info in source.infolist()}
    top = next(iter(entries)).partition("/")[0]
    for name, change in edits.items():
        if change is None:
            entries.pop(f"{top}/{name}", None)  # older torch writes fewer entries
        else:
            entries[f"{top}/{name}"] = change(entries[f"{top}/{name}"]) if callable(change) else change
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries.items():
            target.writestr(name, content)
