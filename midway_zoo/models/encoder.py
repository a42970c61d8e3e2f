"""The Midway encoders as timm models.

A Midway encoder is numerically timm's :class:`~timm.models.VisionTransformer`: patch embedding, class token, learned
absolute positions, pre-norm blocks, final LayerNorm (eps 1e-6), no class head. Importing this module registers
``midway_vits``, ``midway_vitb`` and ``midway_nano`` with timm.
"""

from collections.abc import Mapping
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._pretrained import PretrainedCfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from midway_zoo.config import ARCHITECTURES
from midway_zoo.errors import CheckpointError
from midway_zoo.manifest import BUNDLED, bundled_file, load_manifest


def _cfg(architecture: str, **kwargs: Any) -> dict[str, Any]:
    """timm's description of a Midway encoder: native size, normalisation, no class head."""
    return {
        "num_classes": 0,
        "input_size": (3, *ARCHITECTURES[architecture].img_size),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2510.05558",
        "paper_name": "Midway Network: Learning Representations for Recognition and Motion from Latent Dynamics",
        **kwargs,
    }


def _source(entry: Mapping[str, Any]) -> dict[str, str]:
    """The weights' location as timm lists it; their tensors come from :func:`_create`."""
    if entry["format"] == BUNDLED:
        return {"file": str(bundled_file(entry))}
    return {"hf_hub_id": entry["repo_id"], "hf_hub_filename": entry["file"]}


# One entry per name of the manifest; the first tag of an architecture is its default.
default_cfgs = generate_default_cfgs(
    {
        name: _cfg(entry["architecture"], license=entry["license"], **_source(entry))
        for name, entry in load_manifest()["models"].items()
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> VisionTransformer:
    config = ARCHITECTURES[variant]
    fetched = pretrained and not _has_own_source(kwargs)
    if fetched:
        from midway_zoo.weights.load import encoder_state  # which needs the networks, which need this module

        tag = kwargs.get("pretrained_cfg") or default_cfgs[variant].tags[0]
        state = encoder_state(f"{variant}.{tag}" if tag else variant, cache_dir=kwargs.get("cache_dir"))
        kwargs["pretrained_cfg_overlay"] = {
            **(kwargs.get("pretrained_cfg_overlay") or {}),
            "state_dict": state,
        }
        if tag and tag not in default_cfgs[variant].tags:  # of register_weights, unknown to timm
            kwargs["pretrained_cfg"] = PretrainedCfg(**_cfg(variant))
        if not kwargs.get("num_classes"):  # nothing but a new class head keeps the numbers that timm draws
            kwargs.setdefault("weight_init", "skip")
    # img_size comes from timm's configuration, so that a model read back from a folder takes its size from the
    # folder's config.json.
    shape = {key: value for key, value in config.encoder_args.items() if key != "img_size"}
    out_indices = kwargs.pop("out_indices", config.feature_blocks)
    model = build_model_with_cfg(
        VisionTransformer,
        variant,
        pretrained,
        pretrained_filter_fn=_filter_fn,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **(shape | kwargs),
    )
    if fetched:  # the description would keep a second reference to all tensors
        for described in (model, getattr(model, "model", None)):
            description = getattr(described, "pretrained_cfg", None)
            if isinstance(description, dict):
                description.pop("state_dict", None)
    return model


def _has_own_source(kwargs: dict[str, Any]) -> bool:
    """Whether the caller or timm (``hf-hub:``, ``local-dir:``) names the source of the weights."""
    if isinstance(kwargs.get("pretrained_cfg"), dict | PretrainedCfg):
        return True
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    return any(overlay.get(key) for key in ("file", "state_dict", "url", "hf_hub_id"))


def _resampled_positions(state_dict: dict[str, Tensor], model: VisionTransformer) -> Tensor | None:
    """The position table for a grid of as many tokens but another shape, which older timm does not resample."""
    table, grid = state_dict.get("pos_embed"), tuple(model.patch_embed.grid_size)
    height, width = model.pretrained_cfg["input_size"][-2:]
    source = (height // model.patch_embed.patch_size[0], width // model.patch_embed.patch_size[1])
    if (
        table is None
        or table.shape != model.pos_embed.shape
        or source == grid
        or source[0] * source[1] != grid[0] * grid[1]
    ):
        return None
    return resample_abs_pos_embed(table, new_size=list(grid), old_size=list(source))


def _filter_fn(state_dict: dict[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """timm's conversion, then a check: only a new class head may be missing from the weights."""
    table = _resampled_positions(state_dict, model)
    state_dict = checkpoint_filter_fn(state_dict, model)
    if table is not None:
        state_dict["pos_embed"] = table
    if isinstance(model.norm, nn.Identity) and not isinstance(model.fc_norm, nn.Identity):
        # global_pool="avg" normalises after pooling; the final norm's weights serve there.
        state_dict = {
            key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: value
            for key, value in state_dict.items()
        }
    expected = {key for key in model.state_dict() if not key.startswith("head.")}
    missing, unexpected = expected - state_dict.keys(), {k for k in state_dict if not k.startswith("head.")} - expected
    if missing or unexpected:
        raise CheckpointError(
            f"the weights do not fit this encoder: {len(missing)} tensor(s) missing {sorted(missing)[:3]}, "
            f"{len(unexpected)} unexpected {sorted(unexpected)[:3]}."
        )
    return state_dict


@register_model
def midway_vits(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Midway ViT-S/16 encoder, 21.7 M parameters (https://arxiv.org/abs/2510.05558)."""
    return _create("midway_vits", pretrained, **kwargs)


@register_model
def midway_vitb(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Midway ViT-B/16 encoder, 85.8 M parameters (https://arxiv.org/abs/2510.05558)."""
    return _create("midway_vitb", pretrained, **kwargs)


@register_model
def midway_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Midway nano encoder, patch 8 at 64x64: for tests and demonstrations, not in the paper."""
    return _create("midway_nano", pretrained, **kwargs)
