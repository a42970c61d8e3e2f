"""Names: which models there are, and how a name or a file becomes a network."""

import logging
from collections.abc import Mapping
from functools import cache, lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import nn

from midway_zoo.config import ARCHITECTURES, MidwayConfig, override
from midway_zoo.errors import ConfigError, InputTypeError, MissingFileError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.names import list_models, split_name
from midway_zoo.storage import WEIGHTS, EncoderName, load_file, load_folder
from midway_zoo.weights.load import load_pretrained
from midway_zoo.weights.run_folder import checkpoint_folder, load_run

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
        head = _flow_fields(kwargs)
        if kwargs or encoder != "teacher":
            raise ConfigError(f"{name}: what was pushed is what is loaded; no {', '.join(kwargs) or 'encoder'} here.")
        repo_id, _, at = name.removeprefix("hf-hub:").partition("@")
        folder = None if cache_dir is None else Path(cache_dir)
        network = MidwayNetwork.from_pretrained(repo_id, revision=revision or at or None, cache_dir=folder, token=token)
        return _with_flow_head(network, head, name)
    architecture, tagged = split_name(name)
    config = override(ARCHITECTURES[architecture], kwargs)
    if not pretrained:
        return MidwayNetwork(config).eval()
    paired = bool(kwargs.pop("paired", False))
    head = _flow_fields(kwargs)
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
    return _with_flow_head(network, head, name)


def _flow_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of the flow head, which released weights do not have, out of ``values``."""
    return {key: values.pop(key) for key in ("flow_head", "flow_size") if key in values}


def _with_flow_head(network: MidwayNetwork, asked: Mapping[str, Any], name: str) -> MidwayNetwork:
    """The network with the head that was asked for: its own, or a fresh one."""
    widths, own = asked.get("flow_head") or None, network.config.flow_head
    config = override(network.config, {**asked, "flow_head": widths if widths and widths is not True else own})
    if own is not None and config.flow_head != own:
        raise ConfigError(f"{name} has a flow head of widths {own}; flow_head={widths!r} cannot replace it.")
    if widths is not None and own is None:
        network.add_flow_head(widths, size=config.flow_size)
        _logger.warning("%s has no flow head: a fresh one with random weights was added, to be fine-tuned", name)
    else:
        network.config = config
    return network


def load_checkpoint(
    path: str | PathLike[str],
    *,
    encoder: Literal["teacher", "student"] = "teacher",
    paired: bool = False,
    config: Mapping[str, Any] | MidwayConfig | None = None,
) -> MidwayNetwork:
    """A network from a file on disk, read safely: nothing in the file is ever run.

    Args:
        path: a released-layout ``.pth`` of any width, grid or token count; a folder or ``.safetensors`` file written
            by this package; or a training run: its folder (the newest checkpoint is meant), its ``best.json`` (the
            one that validated best) or a ``checkpoints/step_*`` in it.
        encoder: which encoder sees the frames: "teacher", as is usual for self-supervised models, or
            "student".
        paired: keep both encoders, student for source and teacher for target frames, as in pretraining.
        config: for a ``.pth``: fields of :class:`~midway_zoo.MidwayConfig` that override what is inferred
            (shapes come from tensors, head counts and gate bias from the pickled configuration); with
            ``flow_head`` the network gets a fresh flow head.

    Returns:
        The network on the CPU, in evaluation mode. A ``.pth`` gives float32 whatever precision it was saved in, so
        that ordinary frames can be passed to it (``.half()`` makes it small again); what this package wrote keeps
        its precision.

    Raises:
        MissingFileError: if there is no such file.
        UnsafeFileError: if a pickle asks for anything outside the allow-list.
        CheckpointError: if the file is damaged, or a tensor is missing, unexpected, misshapen or non-finite.
        ConfigError: if the configuration cannot be inferred or contradicts itself.
    """
    if encoder not in ("teacher", "student"):
        raise ConfigError(f'encoder={encoder!r}: "teacher" or "student" is expected.')
    if not isinstance(path, str | PathLike):
        raise InputTypeError(f"load_checkpoint takes a path, not {type(path).__name__}.")
    path = Path(path)
    if not path.exists():
        hint = f" For the zoo's weights of that name use create_model({str(path)!r}, pretrained=True)."
        raise MissingFileError(f"there is no file {path}.{hint if str(path) in list_models() else ''}")
    run = checkpoint_folder(path)
    if run is not None or path.is_dir() or path.suffix == ".safetensors":
        if config is not None:
            raise ConfigError("config= is for released .pth files; a file of this package carries its configuration.")
        if run is not None:
            return load_run(run, encoder=encoder, paired=paired)
        return (load_folder if path.is_dir() else load_file)(MidwayNetwork, path, encoder=encoder, paired=paired)
    if isinstance(config, MidwayConfig):
        paired = paired or config.paired
        config = {key: value for key, value in config.to_dict().items() if key not in ("encoder", "paired")}
    elif config is not None and (not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config)):
        raise InputTypeError(f"config={config!r}: a mapping of MidwayConfig fields is expected.")
    elif config and "paired" in config:
        raise ConfigError("pass paired= itself, not in config=.")
    from midway_zoo.weights.released import load_released  # the reader of pickles, for who has one

    fields = dict(config or {})
    head = _flow_fields(fields)
    return _with_flow_head(load_released(path, encoder=encoder, paired=paired, config=fields), head, path.name)


def resolve_network(model: Any) -> MidwayNetwork:
    """The network itself, also inside ``torch.compile``, PEFT or data-parallel wrappers, or that of a name or path,
    loaded once per process (and again when the file changed).

    Raises:
        InputTypeError: for anything else.
    """
    if isinstance(model, str | PathLike):
        path = Path(model)
        return _from_path(path, _changed(path)) if is_path(model) else _pretrained(str(model))
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


def _changed(path: Path) -> int:
    """Changes with what a path holds."""
    held = checkpoint_folder(path) or path
    files = [held / WEIGHTS, held] if held.is_dir() else [held]
    return next((file.stat().st_mtime_ns for file in files if file.exists()), 0)


@lru_cache(maxsize=4)
def _from_path(path: Path, changed_ns: int) -> MidwayNetwork:
    return load_checkpoint(path)
