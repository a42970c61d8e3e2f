"""Do segmentation heads learn, and on what? Generated scenes, bundled against random backbone, three seeds.

    python examples/segmentation_scenes.py --out runs/seg_scenes

Trains every head on both backbones with every seed (runs are resumed, finished ones are only read), and prints mIoU on
scenes that no run has trained on, beside what one gets without looking: everything ground, and guesses as frequent as
the classes are. ``--out`` also gets ``table.json``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from midway_zoo.cli import main as midway_zoo
from midway_zoo.readouts.segmentation_metrics import SegmentationMetrics
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig
from midway_zoo.train.tasks.segmentation.data import held_out_scenes

ROWS = {
    "linear on v": ["head.kind=linear", "features.source=backward"],
    "linear on the encoder": ["head.kind=linear", "features.source=encoder"],
    "UperNet": ["head.kind=upernet", "features.source=encoder", "head.width=64", "optim.lr=2e-3"],
}
BACKBONES = {"bundled": "init_from=midway_nano.scenes", "random": "init_from=null"}
RECIPE = "segmentation_scenes_nano"
SCENES = [
    *("data.scenes.classes=1", "data.scenes.objects=[1,3]", "data.scenes.size=[0.2,0.4]", "data.val_scenes=256"),
    *("data.scenes.textures=natural", "data.scenes.texture_size=256"),
]
"""Objects in front of a ground, whose textures are of the same pictures: color alone does not tell them apart."""


def mean_iou(folder: Path, settings: list[str], steps: int) -> float:
    """Of one run, in percent."""
    out = [
        f"out={folder}",
        f"schedule_steps={steps}",
        "save_every=100000",
        "trackers=[]",
        "num_workers=0",
        "batch_size=32",
        "optim.warmup_steps=20",
        *SCENES,
    ]
    if midway_zoo(["train", "segmentation", "--recipe", RECIPE, "--quiet", *out, *settings]):
        raise SystemExit(f"the run in {folder} failed")
    state = max((folder / "checkpoints").glob("*/state.json"), key=lambda path: path.parent.name)
    return 100 * validated(folder, json.loads(state.read_text()), steps)


def validated(folder: Path, state: dict[str, Any], steps: int) -> float:
    """mIoU that a run's last checkpoint was validated with, as a share."""
    if "mIoU" in state["validation"]:
        return float(state["validation"]["mIoU"])
    if state["step"] < steps:
        raise SystemExit(f"the run in {folder} was stopped; the same command goes on with it")
    raise SystemExit(f"the run in {folder} was stopped before its last validation; delete the folder and try again")


def without_looking() -> dict[str, float]:
    """mIoU in percent of saying ground everywhere, and of guessing each class as often as it is there."""
    config = load_config(SegmentationConfig, RECIPE, ["out=unused", *SCENES])
    labels = torch.cat([labels for _, labels in held_out_scenes(config.data, torch.device("cpu"), batch_size=64)])
    count = config.data.scenes.num_classes
    shuffled = labels.flatten()[torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(0))]
    found = {}
    for name, guess in (("all ground", torch.zeros_like(labels)), ("guesses", shuffled.view_as(labels))):
        metrics = SegmentationMetrics(count + 1)
        metrics.update(guess, labels)
        found[name] = 100 * metrics.compute()["mIoU"]
    return found


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of table.json")
    parser.add_argument("--steps", type=int, default=100, help="of each run, 32 scenes of 64 x 64 pixels each")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table: dict[str, list[float]] = {}
    for row, head in ROWS.items():
        for backbone, weights in BACKBONES.items():
            name = f"{row}, {backbone}"
            for seed in range(options.seeds):
                folder = options.out / f"{name} {seed}".replace(" ", "_").replace(",", "")
                value = mean_iou(folder, [*head, weights, f"seed={seed}"], options.steps)
                table.setdefault(name, []).append(round(value, 1))
                print(f"{name}, seed {seed}: mIoU {value:.1f} %", flush=True)
    result = {"steps": options.steps, "miou": table, "without_looking": without_looking()}
    (options.out / "table.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
