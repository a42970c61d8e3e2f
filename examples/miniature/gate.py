"""What a checkpoint of midway_nano can do, in figures that are comparable over a run: the gate it has to pass.

    python examples/miniature/gate.py CHECKPOINT [...] --json gate.json [--media FOLDER_OR_VIDEO ...]

CHECKPOINT is a run folder, one of its checkpoints/step_*, an exported folder, a pretrained name, or "random" (fresh
weights, aligned).
Figures are added to --json under the checkpoint's name and drawn, over pairs seen, to the PNG beside it. Everything is
measured on scenes of natural pictures that nothing is trained on, moved by one to three patches:

hits, copies    of tokens that are seen in both frames and truly move by a patch or more, the percent whose heat map
                peaks where they go, and where they were; "chance" is what a peak drawn at random would hit
zero_shot       end-point error of the perturbation flow, beside zero flow and the best single vector of each pair
head            the same of the flow head, where there is one, alone and with refine=2
probe           error of the mean flow, read off the motion latent by a linear map, beside the mean over pairs
objects         how well a linear map of the features tells tokens of objects from tokens of ground: percent of pairs of
                one of each that it puts in order (area under the curve; chance is 50)
propagation     J of objects carried through six frames by features, and if they stayed where they were
rest            length of the head's flow where nothing moves, alone and with refine=2: of equal frames, and in the
                black bars (an eighth of the height each) of a picture that moves by 3 pixels
warped          with --media: error of the head on real frames under smooth warps; with --side SIDE on crops of so many
                pixels, in tiles of the network's size, as warpedSIDE

The picture NAME.pca.png shows the first three principal components of five frames of the --media.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from curves import draw_panels
from PIL import Image
from probing import error
from torch import Tensor

import midway_zoo as mz
from midway_zoo.analysis import sensitivity_matrix
from midway_zoo.analysis.probes import STRENGTHS, ridge
from midway_zoo.config import architecture_config, override
from midway_zoo.errors import InputError, MidwayZooError
from midway_zoo.files import write_json, write_png
from midway_zoo.inference.frames import open_frames
from midway_zoo.inference.images import resize
from midway_zoo.readouts.masks import region_similarity
from midway_zoo.readouts.propagation import PropagationOptions, propagate_labels
from midway_zoo.scenes import SceneBatch, SceneGenerator, ScenesConfig
from midway_zoo.train.alignment import align
from midway_zoo.train.checkpoints import run_checkpoint
from midway_zoo.train.weights import network_of_checkpoint
from midway_zoo.visualize import features_to_image

sys.path.append(str(Path(__file__).resolve().parents[1]))
from flow_generalisation import measure as measure_flow
from flow_generalisation import translation
from flow_generalisation import warped as warped_pairs

SEED = 0x67_6174_65  # of scenes that are held out; no run should have it as its own
PICTURE = 256  # side in pixels of the pictures that are the textures of scenes
_AT_ONCE = 16


def network_of(name: str) -> tuple[mz.MidwayNetwork, int]:
    """A network with one encoder, and how many pairs it has seen in its last run."""
    if name == "random":
        torch.manual_seed(0)
        network = mz.MidwayNetwork(override(architecture_config("midway_nano"), {"gate_bias": 1.0}))
        align(network.require_dynamics())
        return network.eval(), 0
    checkpoint = run_checkpoint(Path(name)) if Path(name).exists() else None
    if checkpoint is None:
        # An exported folder or a file, as examples/miniature/join.py or `midway-zoo train export` write it, or a name.
        return (mz.load_checkpoint(name) if Path(name).exists() else mz.create_model(name, pretrained=True)), 0
    network = network_of_checkpoint(checkpoint, paired=False)
    return network, checkpoint.step * int(checkpoint.state()["identity"].get("batch_size", 0))


def scenes(side: int, pairs: int, first: int = 0) -> Iterator[SceneBatch]:
    """Held-out pairs whose camera moves by up to three patches of 8 pixels."""
    config = ScenesConfig(
        height=side,
        width=side,
        objects=(1, 4),
        motion=6.0,
        camera=0.3 * side,
        textures="natural",
        natural=16,
        texture_size=PICTURE,
    )
    generator = SceneGenerator(config, SEED)
    for start in range(first, first + pairs, _AT_ONCE):
        yield generator.render(range(start, min(start + _AT_ONCE, first + pairs)))


def heat_maps(network: mz.MidwayNetwork, pairs: int) -> dict[str, float]:
    """Hits and copies among tokens that move by a patch or more, over the levels the best and its number."""
    side, patch = network.config.img_size[0], network.config.patch_size
    grid = network.config.grid
    counts = {level: [0, 0] for level in network.config.levels}
    moved_tokens = seen_tokens = 0
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    for batch in scenes(side, pairs):
        middle = slice(patch // 2, None, patch)
        flow, hidden = batch.flow[:, 0, :, middle, middle], batch.occlusion[:, 0, middle, middle]
        goal = torch.stack([x, y]) + (flow / patch).round().long()
        inside = ((goal >= 0) & (goal < torch.tensor([grid[1], grid[0]]).view(2, 1, 1))).all(1)
        moved = (torch.linalg.vector_norm(flow, dim=1) >= patch) & inside & ~hidden
        moved_tokens, seen_tokens = moved_tokens + int(moved.sum()), seen_tokens + moved.numel()
        target = goal[:, 1] * grid[1] + goal[:, 0]
        for level, count in counts.items():
            matrix = sensitivity_matrix(network, *batch.frames.unbind(1), level=level, batch_size=_AT_ONCE).matrix
            peak = matrix.argmax(-1).reshape(moved.shape)
            count[0] += int((peak == target)[moved].sum())
            count[1] += int((peak == y * grid[1] + x)[moved].sum())
    best = max(counts, key=lambda level: counts[level][0])
    figures = {f"hits_{level}": 100 * hits / max(1, moved_tokens) for level, (hits, _) in counts.items()}
    return figures | {
        "hits": 100 * counts[best][0] / max(1, moved_tokens),
        "copies": 100 * counts[best][1] / max(1, moved_tokens),
        "chance": 100 / (grid[0] * grid[1]),
        "moved": 100 * moved_tokens / seen_tokens,
        "tokens": moved_tokens,
    }


def flow_errors(network: mz.MidwayNetwork, pairs: int) -> dict[str, float]:
    """End-point errors of every way to find the flow of held-out scenes, in pixels."""
    side = network.config.img_size[0]
    ways: dict[str, Any] = {"zero_shot": {"method": "perturbation"}}
    if network.flow_head is not None:
        ways |= {"head": {"tile": side}, "head_refined": {"tile": side, "refine": 2}}
    totals: dict[str, list[Tensor]] = {}
    for batch in scenes(side, pairs):
        true = batch.flow[:, 0]
        found = {name: mz.predict_flow(network, *batch.frames.unbind(1), **way).flow for name, way in ways.items()}
        found |= {"zero": torch.zeros_like(true), "vector": translation(true)}
        for name, flow in found.items():
            totals.setdefault(name, []).append(torch.linalg.vector_norm(flow - true, dim=1).mean((1, 2)))
    return {f"epe_{name}": float(torch.cat(values).mean()) for name, values in totals.items()}


def rest(network: mz.MidwayNetwork, pairs: int) -> dict[str, float]:
    """Mean length in pixels of the flow of what rests: equal frames, and black bars beside a picture that moves."""
    side, shift = network.config.img_size[0], 3
    bar = side // 8
    totals: dict[str, list[Tensor]] = {}
    for batch in scenes(side + shift, pairs):
        picture = batch.frames[:, 0]
        still = picture[..., :side, :side]
        boxed = [picture[..., :side, first : first + side].clone() for first in (0, shift)]
        for frame in boxed:
            frame[..., :bar, :] = frame[..., -bar:, :] = 0
        for name, way in {"": {}, "_refined": {"refine": 2}}.items():
            options: dict[str, Any] = {"tile": side, **way}
            flow = mz.predict_flow(network, still, still, **options).flow
            totals.setdefault(f"rest_still{name}", []).append(torch.linalg.vector_norm(flow, dim=1).mean((1, 2)))
            flow = mz.predict_flow(network, *boxed, **options).flow
            bars = torch.cat([flow[..., :bar, :], flow[..., -bar:, :]], dim=-2)
            totals.setdefault(f"rest_bars{name}", []).append(torch.linalg.vector_norm(bars, dim=1).mean((1, 2)))
    return {name: float(torch.cat(values).mean()) for name, values in totals.items()}


def linear_maps(network: mz.MidwayNetwork, pairs: int) -> dict[str, float]:
    """What linear maps read: a pair's mean flow off the latent, and whether a token shows an object."""
    patch = network.config.patch_size
    latents, motions, tokens, objects = [], [], [], []
    for batch in scenes(network.config.img_size[0], pairs):
        source, target = batch.frames.unbind(1)
        if network.dynamics is not None:
            latents.append(mz.infer_motion_latent(network, source, target, batch_size=_AT_ONCE).tokens.flatten(1))
            motions.append(batch.flow[:, 0].flatten(2).mean(-1))
        maps = mz.extract_features(network, source, batch_size=_AT_ONCE).maps
        tokens.append(maps[max(maps)].flatten(2).transpose(1, 2).flatten(0, 1))
        shares = torch.nn.functional.avg_pool2d((batch.instances[:, :1] > 0).float(), patch)
        objects.append(shares.flatten())
    probe = _fitted(torch.cat(latents).double(), torch.cat(motions).double()) if latents else {}
    share = torch.cat(objects)
    clear = (share < 0.1) | (share > 0.9)  # tokens of one kind
    found, true = _fitted(torch.cat(tokens)[clear].double(), (share[clear, None] > 0.5).double(), test=True)
    rank = found.flatten().argsort().argsort().double() + 1
    is_object = true.flatten() > 0.5
    ours, others = int(is_object.sum()), int((~is_object).sum())
    area = (float(rank[is_object].sum()) - ours * (ours + 1) / 2) / max(1, ours * others)
    return {**probe, "objects": 100 * area}


def _fitted(features: Tensor, values: Tensor, *, test: bool = False) -> Any:
    """Ridge regression on seven tenths, its strength chosen on a tenth; figures on the rest, or both sides of it."""
    first, second = int(0.7 * len(features)), int(0.8 * len(features))
    features = (features - features[:first].mean(0)) / features[:first].std(0).clamp(min=1e-6)
    mean = values[:first].mean(0)
    fits = [features @ ridge(features[:first], values[:first] - mean, strength) + mean for strength in STRENGTHS]
    best = min(fits, key=lambda fit: float((fit - values)[first:second].square().sum()))[second:]
    if test:
        return best, values[second:]
    return {"probe": error(best, values[second:]), "probe_mean": error(mean.expand_as(best), values[second:])}


def propagation(network: mz.MidwayNetwork, clips: int) -> dict[str, float]:
    """J in percent of the objects of the first frame, carried through clips of six frames by features, and if they
    stayed where they were; objects that are a patch large and are seen in all frames count."""
    side, patch = network.config.img_size[0], network.config.patch_size
    config = ScenesConfig(
        height=2 * side,
        width=2 * side,
        frames=6,
        objects=(2, 4),
        motion=8.0,
        camera=6.0,
        textures="natural",
        natural=16,
    )
    generator, options = SceneGenerator(config, SEED), PropagationOptions(side=2 * side, context=4, radius=6)
    scores: list[tuple[float, float]] = []
    for number in range(clips):
        batch = generator.render([number])
        frames, truth = batch.frames[0], batch.instances[0]
        found = list(propagate_labels(network, list(frames), truth[0], options=options))
        for one in range(1, int(truth.max()) + 1):
            if (truth == one).sum((1, 2)).min() < patch * patch:
                continue
            pairs = ((found[-1], truth[-1]), (truth[0], truth[-1]))
            scores.append(tuple(region_similarity(ours == one, true == one) for ours, true in pairs))  # type: ignore
    moved, stayed = torch.tensor(scores).mean(0).tolist()
    return {"propagation_J": 100 * moved, "stay_J": 100 * stayed}


def warped(network: mz.MidwayNetwork, media: list[Path], frames: int, side: int | None) -> dict[str, float]:
    """Errors of the head on warped real frames of every medium: "warped_NAME" and so on, of another side than
    the network's "warped128_NAME". The longest vectors have about a tenth of the side."""
    figures = {}
    tile = network.config.img_size
    name_of_side = "" if side in (None, tile[0]) else str(side)
    side = tile[0] if side is None else side
    for path in media:
        pairs = warped_pairs(path, (side, side), frames, longest=6.0 * side / tile[0])
        for name, value in measure_flow(network, pairs, (tile[0], tile[1])).items():
            figures[f"warped{name_of_side}_{path.stem}_{name}"] = value["epe"]
    return figures


def picture(network: mz.MidwayNetwork, media: list[Path], out: Path) -> None:
    """The first frame of each of at most five media above its principal components."""
    size = (128, 192)
    images = torch.stack([resize(next(iter(open_frames(path))).image, size) for path in media[:5]])
    maps = mz.extract_features(network, images, size=size).maps
    components = features_to_image(maps[max(maps)], size=size)
    rows = [torch.cat(list(row), dim=2) for row in ((images.clamp(0, 1) * 255).round().to(torch.uint8), components)]
    write_png(out, torch.cat(rows, dim=1), overwrite=True)


def gate(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Every figure of one checkpoint."""
    network, pairs = network_of(name)
    side, least, patch = options.side, network.config.img_size[0], network.config.patch_size
    if side is not None and (side < least or side % patch):
        raise InputError(
            f"--side {side}: a multiple of {patch} that is {least}, the size of {name}, or more is expected."
        )
    figures: dict[str, float] = {"pairs": pairs}
    if network.dynamics is not None:
        figures |= heat_maps(network, options.pairs)
        figures |= flow_errors(network, options.pairs)
    figures |= linear_maps(network, 8 * options.pairs)
    figures |= propagation(network, options.pairs // 4)
    if network.flow_head is not None:
        figures |= rest(network, options.pairs)
    if options.media and network.flow_head is not None:
        figures |= warped(network, options.media, options.frames, options.side)
    if options.media and options.json:
        picture(network, options.media, options.json.with_name(f"{Path(name).name}.pca.png"))
    return figures


_PANELS = (
    ("hits (blue), copies (orange), chance (green), %", ("hits", "copies", "chance")),
    ("motion probe (blue), mean of pairs (orange), px", ("probe", "probe_mean")),
    ("propagation (blue), staying (orange), J %", ("propagation_J", "stay_J")),
)
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c")


def draw(results: dict[str, dict[str, float]]) -> Image.Image:
    """Figures of all checkpoints over the pairs they have seen."""
    rows = sorted(results.values(), key=lambda row: row["pairs"])
    panels = []
    for title, names in _PANELS:
        series = []
        for colour, name in zip(_COLOURS, names, strict=False):
            known = [row for row in rows if name in row]
            series.append((colour, [row["pairs"] for row in known], [row[name] for row in known]))
        panels.append((title, series))
    return draw_panels(panels, "pairs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--json", type=Path, help="where figures are added")
    parser.add_argument("--media", type=Path, nargs="*", default=[], help="videos or folders of frames")
    parser.add_argument("--pairs", type=int, default=128, help="held-out pairs, default: %(default)s")
    parser.add_argument("--frames", type=int, default=32, help="of each medium, default: %(default)s")
    parser.add_argument("--side", type=int, help="of the crops of the media in pixels, in tiles of the network's size")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    if options.json and options.json.is_file():
        results = json.loads(options.json.read_text(encoding="utf-8"))
    try:
        for name in options.checkpoints:
            results[name] = results.get(name, {}) | gate(name, options)
            print(name, " ".join(f"{key} {value:.4g}" for key, value in results[name].items()), flush=True)
            if options.json:
                write_json(options.json, results, overwrite=True)
    except (MidwayZooError, OSError) as problem:
        print(f"gate.py: error: {problem}", file=sys.stderr)
        return 1
    if options.json and len(results) > 1:
        draw(results).save(options.json.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
