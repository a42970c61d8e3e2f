"""From a name, or whatever else is passed as a model, to a network."""

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
"""What the functions of the package take: a network, a pretrained name, "hf-hub:org/repo", or the path of anything that
:func:`load_checkpoint` reads."""


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

    With ``pretrained=True`` only the tensors that the network needs are fetched from the Hub, verified, and kept in
    ``huggingface_hub.cached_assets_path("midway-zoo", ...)``; what is cached loads without network. The weights of
    "midway_nano.scenes" are part of the package: they need neither network nor cache, and their SHA-256 is compared
    with the manifest's.

    Args:
        name: one of :func:`list_models`, an architecture without a tag meaning its first tag; or
            "hf-hub:org/name" or "hf-hub:org/name@revision" for a repository written by ``push_to_hub``, whose
            weights are always loaded.
        pretrained: load the weights of that name; False gives random ones.
        encoder: "teacher" or "student": which encoder of the released file.
        cache_dir: instead of the Hub's cache.
        revision: branch, tag or commit, instead of the manifest's.
        token: of the Hub; it is never sent to another host.
        verify: compare the SHA-256 of cached parts that changed since they were last compared, and of weights in the
            package; False never does.
        **kwargs: fields of :class:`~midway_zoo.MidwayConfig` to change, such as ``paired=True`` (with pretrained
            weights: student for source and teacher for target frames) or ``flow_head=True`` (with pretrained
            weights that have none: a fresh head to fine-tune, and a warning in the log).

    Returns:
        The network in evaluation mode.

    Raises:
        UnknownModelError: for a name that is not listed.
        ConfigError: for an unknown or contradictory keyword.
        WeightsUnavailableError: if the weights cannot be had; never random weights instead.
        CheckpointError: if they are damaged or not what was pinned; nothing of them is kept.
    """
    if encoder not in ("teacher", "student"):
        raise ConfigError(f'encoder={encoder!r}: "teacher" or "student" is expected.')
    if isinstance(name, str) and name.startswith("hf-hub:"):
        head = flow_fields(kwargs)
        if kwargs or encoder != "teacher":
            raise ConfigError(f"{name}: what was pushed is what is loaded; no {', '.join(kwargs) or 'encoder'} here.")
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
    loaded once per process (and again when the file changed).

    Raises:
        InputTypeError: for anything else.
    """
    if isinstance(model, str | PathLike):
        if not is_path(model):
            return _pretrained(str(model))
        from midway_zoo.weights.checkpoint import load_once  # the readers of files, for who passes one

        return load_once(Path(model))
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, MidwayNetwork):
        # torch.compile, DistributedDataParallel, PEFT: its layers are in the network, so that what is trained is used.
        parts = (getattr(inner, name, None) for name in ("_orig_mod", "module", "base_model", "model"))
        inner = next((part for part in parts if isinstance(part, nn.Module) and part is not inner), None)
    if isinstance(inner, MidwayNetwork):
        return inner
    raise InputTypeError(
        f"{type(model).__name__} is no Midway network: pass the result of create_model or load_checkpoint, or a "
        "pretrained name. (timm.create_model gives the encoder alone.)"
    )


def is_path(model: str | PathLike[str]) -> bool:
    """Whether a model is named by a path: a listed name never is, whatever lies beside."""
    if not isinstance(model, str):
        return True
    if model.startswith("hf-hub:") or model in list_models():
        return False
    path = Path(model)
    return path.exists() or path.suffix in _SUFFIXES or len(path.parts) > 1


@cache
def _pretrained(name: str) -> MidwayNetwork:
    return create_model(name, pretrained=True)
