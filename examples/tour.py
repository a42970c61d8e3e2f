"""The three APIs on a clip that this script draws itself, and a picture of what they return.

    python examples/tour.py [--model midway_nano | CHECKPOINT.pth] [--out tour.png]

Without --model the network is an untrained midway_nano: the picture then shows what each result is, not what
a trained model knows. Pass a released checkpoint or a converted folder to see that.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.files import write_png


def draw_clip(frames: int = 8, side: int = 128) -> torch.Tensor:
    """(T, 3, side, side) in [0, 1]: a textured disc moves right and down over a textured background."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, side // 8, side // 8, generator=generator)
    ground, disc = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    clip = []
    for t in range(frames):
        shift = 4 * t
        inside = (x - side // 3 - shift) ** 2 + (y - side // 3 - shift // 2) ** 2 < (side // 5) ** 2
        clip.append(torch.where(inside, disc.roll((shift // 2, shift), dims=(1, 2)), ground * 0.6))
    return torch.stack(clip)


def contact_sheet(rows: list[list[torch.Tensor]], side: int = 160) -> torch.Tensor:
    """Pictures (3, h, w) uint8 in a grid of equal squares."""
    grid = [[F.interpolate(cell[None], size=(side, side), mode="nearest-exact")[0] for cell in row] for row in rows]
    return torch.cat([torch.cat(row, dim=2) for row in grid], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="midway_nano", help="architecture (untrained), .pth or folder")
    parser.add_argument("--out", type=Path, default=Path("tour.png"))
    options = parser.parse_args()

    torch.manual_seed(0)
    known = options.model in mz.list_models(pretrained=False)
    model = mz.create_model(options.model) if known else mz.load_checkpoint(options.model)
    clip = draw_clip()

    start = time.perf_counter()
    features = mz.extract_features(model, clip)
    print(f"extract_features      {time.perf_counter() - start:6.2f} s  {features}")
    start = time.perf_counter()
    latents = mz.infer_motion_latents(model, clip)
    print(f"infer_motion_latents  {time.perf_counter() - start:6.2f} s  {latents}")
    start = time.perf_counter()
    flow = mz.predict_flow(model, clip[0], clip[2])
    print(f"predict_flow          {time.perf_counter() - start:6.2f} s  {flow}")
    heat = mz.perturbation_heatmap(model, clip[0], clip[2], xy=(43, 43))

    frames = list((clip[[0, 2, 4, 6]] * 255).to(torch.uint8))
    colours = list(mz.visualize.features_to_image(features.maps[11][[0, 2, 4, 6]]))
    similarity = F.cosine_similarity(latents.pooled[:, None], latents.pooled[None], dim=-1)
    last = [
        mz.visualize.flow_to_image(flow.flow[0]),
        mz.visualize.heatmap_overlay(clip[2], heat.heatmap[0]),
        mz.visualize.heatmap_overlay(torch.zeros(3, 64, 64), similarity, alpha=1.0),
        frames[0],
    ]
    write_png(options.out, contact_sheet([frames, colours, last]), overwrite=True)
    print(f"wrote {options.out}: frames; principal components of block 11; flow, heat map of one point, similarity of "
          "the clip's motion latents, first frame")  # fmt: skip
    if known:
        print(f"{options.model} is untrained here: shapes are real, contents are not. --model takes a checkpoint.")


if __name__ == "__main__":
    main()
