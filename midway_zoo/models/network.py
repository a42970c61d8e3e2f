"""The full Midway network: a timm encoder, the dynamics around it, and how both are saved."""

# No `from __future__ import annotations` here: the hub mixin reads the type of `config` from the signature.
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import timm
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import Tensor, nn

import midway_zoo.models.encoder  # noqa: F401  (registers the encoders with timm)
from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.models.dynamics import Dynamics
from midway_zoo.models.flow_head import FlowHead
from midway_zoo.models.layers import leading_tokens
from midway_zoo.results import DynamicsOutput

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def build_encoder(config: MidwayConfig, **kwargs: Any) -> "VisionTransformer":
    """The timm encoder of a configuration, with random weights and any input size."""
    kwargs = {"num_classes": 0, "dynamic_img_size": True} | config.encoder_args | kwargs
    if torch.get_default_device().type == "meta":  # to be filled from a file: random numbers would be wasted time
        kwargs = {"weight_init": "skip"} | kwargs
    return timm.create_model(config.encoder, pretrained=False, **kwargs)


def _check_pair(source: Tensor, target: Tensor) -> None:
    if source.shape != target.shape:
        raise InputError(f"source {tuple(source.shape)} and target {tuple(target.shape)} must have the same shape.")


class MidwayNetwork(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="midway-zoo",
    license="cc-by-4.0",
    tags=["image-feature-extraction", "optical-flow", "self-supervised", "video"],
    pipeline_tag="image-feature-extraction",
    paper_url="https://arxiv.org/abs/2510.05558",
):
    """Midway Network (Hoang & Ren, ICLR 2026, https://arxiv.org/abs/2510.05558).

    Attributes:
        encoder: the timm VisionTransformer that sees every frame; in paired mode (``config.paired``)
            the student, which sees source frames only.
        target_encoder: in paired mode the EMA teacher, which sees target frames; otherwise None.
        dynamics: midway path, backward layers and forward dynamics; None for an encoder alone
            (``config.dynamics=False``).
        flow_head: the dense flow head (``config.flow_head``), or None; see :meth:`add_flow_head`.
        provenance: where the weights come from (source file, which encoder, ...); saved with them.

    Raises:
        ConfigError: if ``config`` is not a :class:`MidwayConfig`.
    """

    def __init__(self, config: MidwayConfig) -> None:
        super().__init__()
        if not isinstance(config, MidwayConfig):
            raise ConfigError(
                f"MidwayNetwork takes a MidwayConfig, not {type(config).__name__}; "
                "MidwayConfig.from_dict reads a mapping, midway_zoo.create_model takes a name."
            )
        self.config = config
        self.encoder = build_encoder(config)
        self.target_encoder: VisionTransformer | None = None
        if config.paired:
            self.target_encoder = build_encoder(config)
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_encoder.requires_grad_(False)
        self.dynamics = Dynamics(config) if config.dynamics else None
        self.flow_head = None if config.flow_head is None else FlowHead(config)
        self.provenance: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        return self.encoder.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.cls_token.dtype

    def require_dynamics(self) -> Dynamics:
        """``dynamics``, or a :class:`ConfigError` for a network that is an encoder alone."""
        if self.dynamics is None:
            raise ConfigError(
                "this network is an encoder alone (config.dynamics=False): extract_features works, motion and flow "
                "need the dynamics. Build or load a network with dynamics=True, which is the default."
            )
        return self.dynamics

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Token grid (rows, columns) of images (B, 3, H, W); both sides must be multiples of the patch."""
        patch = self.config.patch_size
        if images.ndim != 4 or images.shape[2] % patch or images.shape[3] % patch or 0 in images.shape:
            raise InputError(
                f"got a tensor of shape {tuple(images.shape)}; the network takes normalised images (B, 3, H, W) "
                f"whose sides are multiples of the patch, {patch} pixels. "
                "extract_features, infer_motion_latent and predict_flow resize for you."
            )
        return images.shape[2] // patch, images.shape[3] // patch

    def encode(self, images: Tensor, *, target: bool = False, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """Normed tokens of encoder blocks.

        Args:
            images: (B, 3, H, W), normalised with the encoder's mean and std, sides multiples of the patch.
            target: use the target encoder if there is one (paired mode).
            blocks: increasing 0-based indices; None: ``config.feature_blocks``.

        Returns:
            Per block a tensor (B, 1 + h * w, D), CLS first, after the encoder's final LayerNorm.
        """
        return self._tokens(images, self.config.feature_blocks if blocks is None else blocks, target=target, norm=True)

    def _encoder(self, target: bool) -> "VisionTransformer":
        return self.target_encoder if target and self.target_encoder is not None else self.encoder

    def _tokens(self, images: Tensor, blocks: Sequence[int], *, target: bool, norm: bool = False) -> list[Tensor]:
        """Tokens (B, 1 + h * w, D) of encoder blocks, as they are or after the final LayerNorm."""
        self.grid_of(images)
        levels = self._encoder(target).forward_intermediates(
            images,
            indices=list(blocks),
            return_prefix_tokens=True,
            norm=norm,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in levels]

    def _cls(self, tokens: Tensor, target: bool) -> Tensor:
        """Normed class tokens (B, D) from what the last block is given."""
        encoder = self._encoder(target)
        return encoder.norm(leading_tokens(encoder.blocks[-1], tokens, 1))[:, 0]

    def encode_cls(self, images: Tensor, *, target: bool = False) -> Tensor:
        """The normed class tokens (B, D) of images (B, 3, H, W), as :meth:`encode` takes them.

        The last block is not run on the patch tokens, which nothing depends on.
        """
        return self._cls(self._tokens(images, [self.config.depth - 2], target=target)[0], target)

    def encode_with_cls(self, images: Tensor, further: Tensor, *, target: bool = False) -> tuple[list[Tensor], Tensor]:
        """:meth:`encode` of ``images`` (B, 3, H, W) and :meth:`encode_cls` of ``further`` (N, 3, H, W) in one pass."""
        encoder, wanted = self._encoder(target), self.config.feature_blocks
        last, count = self.config.depth - 1, len(images)
        indices = sorted({*(index for index in wanted if index < last), last - 1})
        found = dict(zip(indices, self._tokens(torch.cat([images, further]), indices, target=target), strict=True))
        whole = {index: tokens[:count] for index, tokens in found.items()}
        if last in wanted:
            whole[last] = encoder.blocks[-1](whole[last - 1])
        return [encoder.norm(whole[index]) for index in wanted], self._cls(found[last - 1][count:], target)

    def encode_pair(self, source: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """:meth:`encode` for source and target; in one pass when one encoder serves both."""
        if self.target_encoder is not None:
            return self.encode(source), self.encode(target, target=True)
        halves = [level.chunk(2) for level in self.encode(torch.cat([source, target]))]
        return [half[0] for half in halves], [half[1] for half in halves]

    def forward(
        self, source: Tensor, target: Tensor, *, return_gates: bool = False, predictions_only: bool = False
    ) -> DynamicsOutput:
        """Full dynamics for the direction source -> target, as in pretraining.

        This is the low-level interface: images must be normalised, nothing is resized, and gradients flow on the
        source side only (the target's tokens are constants of the objective).

        Args:
            source: (B, 3, H, W) float, normalised with the encoder's mean and std; sides are
                multiples of the patch.
            target: the same shape; both frames of a pair use the same crop.
            return_gates: also return the gates of the forward dynamics.
            predictions_only: see :meth:`Dynamics.forward`; enough for the losses of pretraining.

        Raises:
            InputError: if the shapes differ or do not fit the patch.
            ConfigError: for an encoder alone.
        """
        dynamics = self.require_dynamics()
        _check_pair(source, target)
        with torch.no_grad():
            target_levels = self.encode(target, target=True)
        return dynamics(
            self.encode(source),
            target_levels,
            self.grid_of(source),
            return_gates=return_gates,
            predictions_only=predictions_only,
        )

    def add_flow_head(
        self, widths: Sequence[int] | Literal[True] = True, *, size: tuple[int, int] | None = None
    ) -> "MidwayNetwork":
        """Add a randomly initialised flow head, to be fine-tuned; the rest keeps its weights.

        Args:
            widths: ``config.flow_head``; True for the widths that fit the encoder.
            size: ``config.flow_size``, the (height, width) in pixels of the training crops; None keeps it.

        Returns:
            The network itself.

        Raises:
            ConfigError: if it already has a head, or the widths or size are invalid.
        """
        if self.flow_head is not None:
            raise ConfigError(f"the network has a flow head already, of widths {self.config.flow_head}.")
        config = override(self.config, {"flow_head": widths, "flow_size": size or self.config.flow_size})
        self.flow_head = FlowHead(config).to(self.device, self.dtype).train(self.training)
        self.config = config
        return self

    def flow(self, source: Tensor, target: Tensor) -> Tensor:
        """Raw optical flow of the flow head, with gradients, for fine-tuning.

        Both frames are seen by ``encoder`` (in paired mode the target by ``target_encoder``), in one pass.

        Args:
            source: (B, 3, H, W), normalised with the encoder's mean and std; sides multiples of the patch.
            target: the same shape.

        Returns:
            (B, 3, H, W): u (pixels to the right), v (pixels down), and c, the logit of the expected error; see
            :func:`midway_zoo.models.flow_head.error_scale`.

        Raises:
            ConfigError: if the network has no flow head.
            InputError: if the shapes differ or do not fit the patch.
        """
        _check_pair(source, target)
        return self.flow_from_tokens(*self.encode_pair(source, target), self.grid_of(source))

    def flow_from_tokens(self, source: Sequence[Tensor], target: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """:meth:`flow` from both frames' four levels of tokens (:meth:`encode`), for callers that reuse them."""
        self._require_flow_head()
        return self.decode_flow(source, self.require_dynamics()(source, target, grid), grid)

    def decode_flow(self, source: Sequence[Tensor], dynamics: DynamicsOutput, grid: tuple[int, int]) -> Tensor:
        """:meth:`flow` from the source's four levels of tokens and what the dynamics made of them and the target's."""
        return self._require_flow_head()(flow_maps(source, dynamics), grid)

    def _require_flow_head(self) -> FlowHead:
        if self.flow_head is None:
            raise ConfigError("the network has no flow head; create it with flow_head=True, or call add_flow_head().")
        return self.flow_head

    def _save_pretrained(self, save_directory: Path) -> None:
        from midway_zoo.weights.sharing import save_network

        save_network(self, save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publish on the Hub; keywords of huggingface_hub's mixin, such as ``private=True`` and ``token=``."""
        card = {"repo_id": repo_id, **(kwargs.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **kwargs)

    def generate_model_card(self, *args: Any, repo_id: str | None = None, **kwargs: Any) -> ModelCard:
        """The card that ``push_to_hub`` writes, with what is known of these weights."""
        from midway_zoo.weights.sharing import network_card

        return ModelCard(network_card(self, repo_id))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> "MidwayNetwork":
        """Load a network saved with ``save_pretrained`` or ``push_to_hub``, checking every tensor.

        Args:
            pretrained_model_name_or_path: a folder, or a Hub repository ``org/name``.
            force_download: fetch again even if it is in the Hub's cache.
            token: of the Hub.
            cache_dir: instead of the Hub's default cache.
            local_files_only: use the cache only.
            revision: branch, tag or commit.
            **model_kwargs: not accepted; a network is loaded as it was saved.

        Raises:
            ConfigError: for any further keyword.
            MissingFileError: if there is no such folder.
            CheckpointError: if its content is damaged or not a Midway network.
        """
        from midway_zoo.weights.sharing import load_shared

        if model_kwargs:
            raise ConfigError(f"from_pretrained takes no {', '.join(map(repr, model_kwargs))}.")
        options = {"token": token, "cache_dir": cache_dir, "revision": revision}
        options |= {"force_download": force_download, "local_files_only": local_files_only}
        return load_shared(cls, pretrained_model_name_or_path, **options)


def flow_maps(source: Sequence[Tensor], dynamics: DynamicsOutput) -> list[Tensor]:
    """The input of a flow head, four token maps (B, 1 + h * w, D or C): from the source's four levels of tokens, and
    what the dynamics computed of them and the target's."""
    first, last = max(dynamics.predictions), min(dynamics.predictions)  # levels 2 and 0
    return [source[3], dynamics.midway_target_tokens[first], dynamics.predictions[first], dynamics.predictions[last]]


def flow_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Pop the fields of the flow head, which released weights do not have, from ``values``."""
    return {key: values.pop(key) for key in ("flow_head", "flow_size") if key in values}


def with_flow_head(network: MidwayNetwork, asked: Mapping[str, Any], name: str) -> MidwayNetwork:
    """The network with the requested flow head: its own, or a randomly initialised one."""
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
