"""What is compared, and how much of it: the rows of the table, and the budgets."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import ConfigError, nearest
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.pretrain.config import PretrainConfig

RECIPES = Path(__file__).parent / "recipes"
STAGES = ("pretrain", "probe", "segmentation", "flow", "frozen", "tracking", "course", "media")


@dataclass(frozen=True)
class Row:
    """One row of the table: settings of pretraining, and how its weights are used."""

    name: str
    title: str
    settings: tuple[str, ...] = ()
    """Overrides of the pretraining recipe."""
    weights: str | None = "own"
    """own: it is pretrained; the name of another row: that one's weights are taken; None: random ones."""
    initial: str = "full"
    """What flow takes of them: full, encoder or random."""
    stages: tuple[str, ...] = ("pretrain", "probe", "segmentation", "flow", "frozen", "tracking", "media")
    main: bool = False
    """Run with every seed; the others with the first alone."""


_NO_DYNAMICS = ("pretrain", "segmentation", "flow", "frozen", "media")

ROWS = {
    row.name: row
    for row in (
        Row("full", "full Midway", main=True, stages=STAGES),
        Row(
            "dino",
            "DINO only",
            ("network.overrides.dynamics=false",),
            initial="encoder",
            stages=_NO_DYNAMICS,
            main=True,
        ),
        Row(
            "encoder",
            "full Midway, its encoder only",
            weights="full",
            initial="encoder",
            stages=("flow", "frozen", "media"),
            main=True,
        ),
        Row(
            "random",
            "random initialisation",
            weights=None,
            initial="random",
            stages=("probe", "segmentation", "flow", "frozen", "tracking", "media"),
            main=True,
        ),
        Row("no_gating", "without gating", ("network.overrides.gating=false",)),
        Row("no_refinement", "without refinement", ("network.overrides.refinement=false",)),
        Row(
            "one_level",
            "without multi-level",
            ("network.overrides.levels=[2]", "objective.dynamics_weights=[1.0]"),
        ),
        Row("no_backward", "without backward", ("network.overrides.backward=false",)),
        Row("dynamics", "dynamics only", ("objective.dino_weight=0",)),
    )
}


@dataclass(frozen=True)
class Budget:
    """How much each stage may do: overrides of the recipes, and sizes of the tracking sets."""

    pretrain: tuple[str, ...]
    segmentation: tuple[str, ...]
    flow: tuple[str, ...]
    """Of fine-tuning and of the frozen run alike."""
    pairs: int
    """Held-out pairs whose heat maps are matched, of each kind of scene."""
    clips: int
    """Held-out clips along which points are tracked."""
    draws: int
    """Random tangents per token."""
    probed: int = 2048
    """Held-out pairs, for fitting the linear map from latents to motion and for its error."""
    media_frames: int = 64
    frames: int = 4
    """Of a clip."""
    points: int = 8
    """Tracked in each clip."""


# Half the recipes' size, a quarter of their tokens: 32 x 32 pixels, for which motion is smaller, too.
_SMALL_VIEWS = (
    *("views.dynamics_size=32", "data.scenes.height=40", "data.scenes.width=40"),
    *("data.scenes.objects=[1,4]", "data.scenes.motion=6.0", "data.scenes.camera=4.0"),
)
_SMALL_CROPS = (
    *("data.crop=[32,32]", "data.scenes.height=40", "data.scenes.width=40"),
    *("data.scenes.objects=[0,3]", "data.scenes.motion=4.0", "data.scenes.camera=4.0"),
)

BUDGETS = {
    # Minutes for a row: 7680 pairs of pretraining.
    "cpu_short": Budget(
        pretrain=(*_SMALL_VIEWS, "schedule_steps=480", "save_every=120", "keep_every=120"),
        segmentation=("schedule_steps=120", "save_every=120"),
        flow=(*_SMALL_CROPS, "schedule_steps=240", "save_every=240"),
        pairs=128,
        clips=32,
        draws=1,
    ),
    # Half an hour of a CPU core for a row: 30 400 pairs, those of the model in the package.
    "cpu": Budget(
        pretrain=(*_SMALL_VIEWS, "schedule_steps=1900", "save_every=300", "keep_every=300"),
        segmentation=("schedule_steps=300", "save_every=300"),
        flow=(*_SMALL_CROPS, "schedule_steps=300", "save_every=300"),
        pairs=128,
        clips=32,
        draws=1,
    ),
    # One GPU of the H100 class.
    "gpu": Budget(
        pretrain=(
            *("schedule_steps=100000", "batch_size=256", "save_every=2500", "keep_every=25000"),
            *("optim.base_lr=1.0e-3", "optim.ema_momentum=0.996", "head.out=2048"),
        ),
        segmentation=("schedule_steps=2000", "batch_size=64", "save_every=1000", "data.val_scenes=1024"),
        flow=("schedule_steps=4000", "batch_size=64", "save_every=1000", "num_workers=8", "validation.scenes=512"),
        pairs=512,
        clips=64,
        draws=4,
    ),
}


def chosen(names: list[str] | None) -> list[Row]:
    """Rows of these names, in the table's order; all for None.

    Raises:
        ConfigError: for a name that is not a row.
    """
    for name in names or []:
        if name not in ROWS:
            raise ConfigError(f"there is no row {name!r}.{nearest(name, ROWS)} Rows: {', '.join(ROWS)}.")
    return [row for row in ROWS.values() if names is None or row.name in names]


def pretraining(row: Row, budget: Budget, seed: int, out: Path, extra: tuple[str, ...] = ()) -> list[str]:
    """Overrides of the pretraining recipe for a run; those of the user come last."""
    return [*budget.pretrain, *row.settings, f"seed={seed}", f"out={out}", *extra]


@cache
def pretrain_config(*settings: str) -> PretrainConfig:
    """The configuration that the recipe and these overrides give."""
    return load_config(PretrainConfig, RECIPES / "pretrain.yaml", settings)


def network_settings(config: PretrainConfig) -> list[str]:
    """Overrides that give the other tasks a network of the shape that ``config`` pretrains; with dynamics, fresh ones,
    if it pretrains none."""
    switches = {key: value for key, value in config.network.overrides.items() if key != "dynamics"}
    switches["grid"] = list(config.midway_config().grid)
    return [
        f"network.name={config.network.name}",
        f"network.overrides={json.dumps(switches)}",
        f"network.dynamics_init={config.network.dynamics_init}",
    ]


def fresh_network(config: PretrainConfig) -> MidwayConfig:
    """Architecture of an untrained network of that shape, with one encoder."""
    return override(config.midway_config(), {"paired": False, "dynamics": True})
