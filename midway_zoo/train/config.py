"""Configuration: strict dataclasses, YAML recipes that ship with the package, ``key.sub=value`` overrides."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import ConfigError, MissingFileError, nearest
from midway_zoo.files import make_folder

Config = TypeVar("Config", bound="RunConfig")


@dataclass
class RunConfig:
    """What every training run has, whatever it trains. These keys are stable."""

    out: str = MISSING
    """Run folder: config.yaml, log.jsonl, checkpoints/, pictures/."""
    seed: int = field_range(0, at_least=0, at_most=2**32 - 1)
    epochs: float = field_range(1.0, above=0, hint="max_seconds= ends a run by the clock")
    """Length of the schedules in epochs of the data."""
    schedule_steps: int | None = field_range(None, above=0)
    """Length of the schedules in optimizer steps instead; the epochs are then spread over them."""
    max_steps: int | None = field_range(None, above=0)
    """Stop (and save) after this many steps; the schedules do not change."""
    max_seconds: float | None = field_range(None, above=0)
    """Stop (and save) after this much wall-clock time; the run can be resumed."""
    batch_size: int = field_range(MISSING, at_least=1)
    """Pairs (or images) of one optimizer step, over all processes."""
    accumulate: int = field_range(1, at_least=1)
    """Micro-batches that a process splits its share of a step into; the gradients are those of the whole."""
    num_workers: int = field_range(8, at_least=0)
    """Data workers of each process; 0 loads in the process itself. The data do not depend on it."""
    precision: str = field_range("bf16", choices=("no", "bf16", "fp16"))
    """no, bf16 or fp16 autocast."""
    cpu_attention: str = field_range("measured", choices=("measured", "autocast"))
    """measured: a CPU under bf16 takes attention in float32 where that is faster there; autocast: in bf16."""
    compile: bool = False
    """Compile the training step with torch.compile; on an accelerator what precedes it too, as pretraining's colours.
    Recommended on GPUs: it takes minutes at the start."""
    shard: bool = False
    """Shard parameters, gradients and optimizer state over the processes (FSDP2) instead of replicating them (DDP).
    Checkpoints are the same, and a run may change this when it is resumed."""
    save_every: int = field_range(1000, at_least=1)
    """Steps between checkpoints."""
    keep_last: int = field_range(3, at_least=1)
    """Newest checkpoints that are kept."""
    keep_every: int | None = field_range(None, above=0)
    """Checkpoints whose step is a multiple of this are kept for good."""
    resume: str = field_range("auto", choices=("auto", "never", "must"))
    """auto: continue when ``out`` holds a checkpoint; never: refuse an ``out`` that holds one; must: insist on one."""
    init_from: str | None = None
    """Initial weights: a pretrained name, a file or folder that load_checkpoint reads, or an exported run."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers that Accelerate knows: tensorboard, wandb, trackio, ...; may be empty."""
    tracker_project: str = "midway_zoo"
    """Project of the trackers."""
    tracker_name: str | None = None
    """Name of the run there; null takes that of the run folder. A resumed run continues its wandb run."""
    log_every: int = field_range(10, at_least=1)
    """Steps between reports to the trackers; log.jsonl has every step."""
    picture_every: int | None = field_range(None, above=0)
    """Steps between pictures."""

    def check(self) -> None:
        """Raise :class:`ConfigError` for a value, or a combination of values, that cannot be trained with."""
        check_fields(self)


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipes().iterdir() if entry.name.endswith(".yaml"))


def load_config(schema: type[Config], recipe: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """A configuration whose values are within their ranges: the schema's defaults, then the recipe, then the overrides.

    What belongs together is checked by ``config.check()``, which a task calls; a configuration may be read without.

    Args:
        schema: dataclass that says which keys there are, and their types.
        recipe: name of a bundled recipe, path of a YAML file, or None.
        overrides: ``key.sub=value``, values in YAML.

    Raises:
        ConfigError: for an unknown key (with the nearest one), a value of the wrong type, or a key that has to be
            given and is not.
        MissingFileError: if there is no such recipe.
    """
    merged = _merged(schema, recipe, overrides)
    try:
        missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
        whole = None if missing else OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error
    if missing:
        given = " ".join(f"{key}=..." for key in missing)
        pick = "" if recipe is not None else f"pick a recipe: --recipe {' | '.join(_recipes_of(schema))}; or "
        raise ConfigError(f"no value for {', '.join(missing)}; {pick}pass {given}.")
    config: Config = whole  # type: ignore[assignment]
    if config.precision == "False":  # what YAML makes of precision=no
        config.precision = "no"
    check_fields(config)
    return config


def describe_config(schema: type[RunConfig], recipe: str | Path | None, overrides: Sequence[str] = ()) -> str:
    """The configuration that :func:`load_config` would give, as YAML; what has to be given yet is ``???``."""
    return OmegaConf.to_yaml(_merged(schema, recipe, overrides))


def _merged(schema: type[RunConfig], recipe: str | Path | None, overrides: Sequence[str]) -> DictConfig:
    known = list(key_names(schema))
    layers = []
    if recipe is not None:
        origin, text = read_recipe(recipe)
        layers.append((origin, _parse(text, origin)))
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not KEY=VALUE. Overrides look like data.root=/videos.")
        layers.append((override, _parsed(override, OmegaConf.from_dotlist, [override])))
    merged = OmegaConf.structured(schema)
    for origin, layer in layers:
        for key in _leaves(layer):
            if not any(_belongs(key, name) for name in known):
                names = [name.removesuffix(".*") for name in known]
                raise ConfigError(f"{origin}: unknown configuration key {key!r}.{nearest(key, names)}")
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            message = str(error).splitlines()[0]
            raise ConfigError(f"{origin}: {error.full_key or 'configuration'}: {message}") from error
    return merged


def _recipes_of(schema: type[RunConfig]) -> list[str]:
    """Bundled recipes whose keys are all this configuration's."""
    known = list(key_names(schema))
    fitting = []
    for name in recipe_names():
        origin, text = read_recipe(name)
        if all(any(_belongs(key, one) for one in known) for key in _leaves(_parse(text, origin))):
            fitting.append(name)
    return fitting


def to_yaml(config: RunConfig) -> str:
    """The whole configuration as YAML; :func:`load_config` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def write_config(config: RunConfig, path: Path) -> None:
    """Write :func:`to_yaml`, in a folder that is made if need be; an earlier one is replaced.

    Raises:
        InputError: if the folder cannot be made.
    """
    make_folder(path.parent)
    path.write_text(to_yaml(config), encoding="utf-8")


def key_names(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of a schema's leaves; a mapping's ends in ``.*``, what is in it is its reader's business."""
    for entry in fields(schema):
        if is_dataclass(entry.type) and isinstance(entry.type, type):
            yield from key_names(entry.type, f"{prefix}{entry.name}.")
        else:
            mapping = get_origin(entry.type) is dict
            yield f"{prefix}{entry.name}{'.*' if mapping else ''}"


def _belongs(key: str, known: str) -> bool:
    whole = known.removesuffix(".*")
    return key == whole or whole.startswith(f"{key}.") or (known.endswith(".*") and key.startswith(f"{whole}."))


def read_recipe(recipe: str | Path) -> tuple[str, str]:
    """Origin and text of a recipe, bundled (by name) or a file (by path)."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise MissingFileError(f"there is no recipe file {path}. Bundled: {', '.join(recipe_names())}.")
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a readable text file ({error}).") from error
    bundled = _recipes() / f"{recipe}.yaml"
    if not bundled.is_file():
        names = recipe_names()
        raise MissingFileError(
            f"there is no recipe {str(recipe)!r}.{nearest(str(recipe), names)} Bundled: {', '.join(names)}; "
            "a recipe of your own is a path that ends in .yaml."
        )
    return f"recipe {recipe}", bundled.read_text(encoding="utf-8")


def _parse(text: str, origin: str) -> DictConfig:
    parsed = _parsed(origin, OmegaConf.create, text)
    if not isinstance(parsed, DictConfig):
        raise ConfigError(f"{origin} must hold keys and values.")
    return parsed


def _parsed(origin: str, parse: Callable[[Any], Any], text: Any) -> Any:
    try:
        return parse(text)
    except Exception as error:  # PyYAML's own classes, which OmegaConf lets through
        raise ConfigError(f"{origin}: not readable YAML: {' '.join(str(error).split())}") from error


def _leaves(config: Any, prefix: str = "") -> Iterator[str]:
    content: Mapping[str, Any] = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config  # type: ignore[assignment]
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _recipes() -> Any:
    return files("midway_zoo.train") / "recipes"
