"""``midway-zoo benchmark encoder``: images to tokens, against timm's ViT of the same size."""

from collections.abc import Callable, Iterator

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.benchmarks.graphs import watch
from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import network_of, noise

_PEERS = {(384, 6): "vit_small_patch16_224", (768, 12): "vit_base_patch16_224"}
CLIP = 8
"""Frames of one size over which recompilations are counted."""


def measure(how: How, *, model: str = "midway_vits", batch: int = 8, size: int | None = None) -> Iterator[Comparison]:
    """Class tokens of a batch; the four levels for the dynamics; optionally compiled and in another precision."""
    network = network_of(model, how.device)
    encoder, config = network.encoder, network.config
    shape = (size, size) if size else config.img_size
    peer_name, peer = _peer(encoder, config.embed_dim, config.num_heads, shape)
    peer = peer.to(how.device)
    images = noise((batch, 3, *shape), how.device)
    ours, timms = config.encoder, f"timm {peer_name}"
    ways = [
        Way(timms, _forward(peer, images), counted=True),
        Way(ours, _forward(encoder, images), counted=True),
        Way(f"{ours}, four levels", _guarded(lambda: network.encode(images))),
    ]
    notes: list[str] = []
    if how.compile:
        way, note = _compiled(encoder, images, ours)
        ways, notes = [*ways, way], [*notes, note]
    if how.dtype != torch.float32:
        name = str(how.dtype).removeprefix("torch.")
        low = _copy(encoder, shape).to(how.device, how.dtype)
        fast = images.to(how.dtype)
        ways += [
            Way(f"{ours}, {name}", _forward(low, fast), dtype=how.dtype, counted=True),
            Way(f"{timms}, {name}", _forward(_copy(peer, shape).to(how.device, how.dtype), fast), dtype=how.dtype),
        ]
        with torch.inference_mode():
            cosine = F.cosine_similarity(low(fast).float(), encoder(images), dim=-1).min().item()
        notes.append(f"class tokens in {name} and float32: smallest cosine {cosine:.5f} (weights: {model})")
        if how.compile:
            way, note = _compiled(low, fast, f"{ours}, {name}", dtype=how.dtype)
            ways, notes = [*ways, way], [*notes, note]
    title = f"encoder, {batch} images of {shape[1]} x {shape[0]}"
    yield compare(title, ways, how, unit="images", items=batch, peer=timms).noting(*notes)


def _compiled(encoder: nn.Module, images: Tensor, name: str, dtype: torch.dtype = torch.float32) -> tuple[Way, str]:
    """The compiled encoder, and a count of its compilations over a clip of one size."""
    run = torch.compile(encoder)
    frames = [(noise(tuple(images.shape), images.device, seed).to(images.dtype),) for seed in range(CLIP)]
    with torch.inference_mode():
        found = watch(run, frames)
    return Way(f"{name}, compiled", _guarded(lambda: run(images)), dtype=dtype), f"{name} {found}"


def _peer(encoder: VisionTransformer, width: int, heads: int, shape: tuple[int, int]) -> tuple[str, VisionTransformer]:
    """timm's own class at the same size, with the same weights."""
    name = _PEERS.get((width, heads))
    if name is None:
        return "VisionTransformer", _copy(encoder, shape)
    peer = timm.create_model(name, num_classes=0, img_size=shape, dynamic_img_size=False).eval()
    return name, peer


def _copy(encoder: VisionTransformer, shape: tuple[int, int]) -> VisionTransformer:
    """A plain VisionTransformer of timm of the same shape and weights."""
    copy = VisionTransformer(
        img_size=shape,
        patch_size=encoder.patch_embed.patch_size[0],
        embed_dim=encoder.embed_dim,
        depth=len(encoder.blocks),
        num_heads=encoder.blocks[0].attn.num_heads,
        num_classes=0,
        weight_init="skip",
    )
    state = {**encoder.state_dict()}
    if state["pos_embed"].shape != copy.pos_embed.shape:  # else resized on use
        state["pos_embed"] = copy.pos_embed.detach()
    copy.load_state_dict(state)
    return copy.eval()


def _forward(encoder: nn.Module, images: Tensor) -> Callable[[], object]:
    return _guarded(lambda: encoder(images))


def _guarded(run: Callable[[], object]) -> Callable[[], object]:
    def guarded() -> object:
        with torch.inference_mode():
            return run()

    return guarded
