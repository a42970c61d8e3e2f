"""Networks from names, and from whatever else is passed as a model."""

import logging
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from midway_zoo.config import ARCHITECTURES, override
from midway_zoo.errors import ConfigError, InputTypeError
from midway_zoo.models.network import MidwayNetwork, flow_fields, with_flow_head
from midway_zoo.names import list_models, split_name
from midway_zoo.storage import EncoderName
from midway_zoo.weights.load import load_pretrained

_logger = logging.getLogger(__name__)
_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")

Model: TypeAlias = MidwayNetwork | str | PathLike[str]
"""A network, a pretrained name, "hf-hub:org/repo", or the path of anything that :func:`load_checkpoint` reads."""


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    encoder: EncoderName = "teacher",
    cache_dir: str | PathLike[str] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    verify: bool = True,
    **kwargs: Any,
) -> MidwayNetwork:
    """A full Midway network by name. (``timm.create_model(name)`` gives the encoder alone.)

    With ``pretrained=True`` only the tensors that the network needs are fetched from the Hub, verified, and cached in
    ``huggingface_hub.cached_assets_path("midway-zoo", ...)``. Cached and bundled weights load offline.

    Args:
        name: one of :func:`list_models`; an architecture without a tag means its first tag; or
            "hf-hub:org/name" or "hf-hub:org/name@revision" for a repository written by ``push_to_hub``, whose
            weights are always loaded.
        pretrained: load the weights of that name; False: random weights.
        encoder: "teacher" or "student": which encoder of the released file to use.
        cache_dir: instead of the default cache.
        revision: branch, tag or commit, instead of the manifest's.
        token: for the Hub; it is never sent to another host.
        verify: compare the SHA-256 of bundled weights, and of cached parts that changed since they were last verified.
        **kwargs: fields of :class:`~midway_zoo.MidwayConfig` to change, such as ``paired=True`` (with pretrained
            weights: student for source and teacher for target frames) or ``flow_head=True`` (with pretrained
            weights that have none: a fresh head to fine-tune, and a warning in the log).

    Returns:
        The network in evaluation mode.

    Raises:
        UnknownModelError: for a name that is not listed.
        ConfigError: for an unknown or contradictory keyword.
        WeightsUnavailableError: if the weights are not available; random weights are never substituted.
        CheckpointError: if they are damaged or differ from what is pinned; they are not kept.
    """
    if encoder not in ("teacher", "student"):
        raise ConfigError(f'encoder={encoder!r}: "teacher" or "student" is expected.')
    if isinstance(name, str) and name.startswith("hf-hub:"):
        head = flow_fields(kwargs)
        if kwargs or encoder != "teacher":
            raise ConfigError(
                f"{name}: the network is loaded as it was pushed; leave out {', '.join(kwargs) or 'encoder'}."
            )
        repo_id, _, at = name.removeprefix("hf-hub:").partition("@")
        folder = None if cache_dir is None else Path(cache_dir)
        network = MidwayNetwork.from_pretrained(repo_id, revision=revision or at or None, cache_dir=folder, token=token)
        return with_flow_head(network, head, name)
    architecture, tagged = split_name(name)
    config = override(ARCHITECTURES[architecture], kwargs)
    if not pretrained:
        return MidwayNetwork(config).eval()
    paired = bool(kwargs.pop("paired", False))
    head = flow_fields(kwargs)
    network = load_pretrained(
        tagged or name,
        encoder=encoder,
        paired=paired,
        overrides=kwargs,
        cache_dir=cache_dir,
        revision=revision,
        token=token,
        verify=verify,
    )
    return with_flow_head(network, head, name)


def resolve_network(model: Any) -> MidwayNetwork:
    """The network itself, also inside ``torch.compile``, PEFT or data-parallel wrappers, or that of a name or path,
    loaded once per process (and again if the file changes).

    Raises:
        InputTypeError: for anything else.
    """
    if isinstance(model, str | PathLike):
        if not is_path(model):
            return _pretrained(str(model))
        from midway_zoo.weights.checkpoint import load_once  # imported only for paths

        return load_once(Path(model))
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, MidwayNetwork):
        # torch.compile, DistributedDataParallel, PEFT: their trained layers are inside the network.
        parts = (getattr(inner, name, None) for name in ("_orig_mod", "module", "base_model", "model"))
        inner = next((part for part in parts if isinstance(part, nn.Module) and part is not inner), None)
    if isinstance(inner, MidwayNetwork):
        return inner
    raise InputTypeError(
        f"{type(model).__name__} is not a Midway network: pass the result of create_model or load_checkpoint, or a "
        "pretrained name. (timm.create_model gives the encoder alone.)"
    )


def is_path(model: str | PathLike[str]) -> bool:
    """Whether a model is given as a path; a listed name never is, even if a file has that name."""
    if not isinstance(model, str):
        return True
    if model.startswith("hf-hub:") or model in list_models():
        return False
    path = Path(model)
    return path.exists() or path.suffix in _SUFFIXES or path.name != model


@cache
def _pretrained(name: str) -> MidwayNetwork:
    return create_model(name, pretrained=True)
