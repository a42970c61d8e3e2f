"""Configuration: strict dataclasses, YAML recipes that ship with the package, ``key.sub=value`` overrides."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midway_zoo.checks import check_fields, field_range
from midway_zoo.errors import ConfigError, MissingFileError, nearest
from midway_zoo.files import make_folder

Config = TypeVar("Config", bound="RunConfig")


@dataclass
class RunConfig:
    """Settings of every training run, whatever it trains. These keys are stable."""

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
    """Pairs (or images) per optimizer step, over all processes."""
    accumulate: int = field_range(1, at_least=1)
    """Micro-batches that each process splits its share of a step into; the gradients are those of the whole batch."""
    num_workers: int = field_range(8, at_least=0)
    """Data workers of each process; 0 loads in the process itself. The number does not affect the data."""
    precision: str = field_range("bf16", choices=("no", "bf16", "fp16"))
    """no, bf16 or fp16 autocast."""
    cpu_attention: str = field_range("measured", choices=("measured", "autocast"))
    """measured: a CPU under bf16 computes attention in float32 if that is measured to be faster; autocast: in bf16."""
    compile: bool = False
    """Compile the training step with torch.compile, on an accelerator also the preceding augmentation. Recommended on
    GPUs, though it takes minutes at the start."""
    shard: bool = False
    """Shard parameters, gradients and optimizer state over the processes (FSDP2) instead of replicating them (DDP).
    Checkpoints are the same, and a resumed run may change this."""
    save_every: int = field_range(1000, at_least=1)
    """Steps between checkpoints."""
    keep_last: int = field_range(3, at_least=1)
    """How many of the newest checkpoints are kept."""
    keep_every: int | None = field_range(None, above=0)
    """Checkpoints whose step is a multiple of this are always kept."""
    resume: str = field_range("auto", choices=("auto", "never", "must"))
    """auto: continue if ``out`` holds a checkpoint; never: refuse an ``out`` that holds one; must: require one."""
    init_from: str | None = None
    """Initial weights: a pretrained name, a file or folder that load_checkpoint reads, or an exported run."""
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers that Accelerate knows: tensorboard, wandb, trackio, ...; may be empty."""
    tracker_project: str = "midway_zoo"
    """Project name for the trackers."""
    tracker_name: str | None = None
    """Name of the run for the trackers; null for that of the run folder. A resumed run continues its wandb run."""
    log_every: int = field_range(10, at_least=1)
    """Steps between reports to the trackers; log.jsonl has every step."""
    picture_every: int | None = field_range(None, above=0)
    """Steps between pictures."""

    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Dotted keys of earlier versions -> their names now, in the same section."""

    def check(self) -> None:
        """Raise :class:`ConfigError` for a value or a combination of values that training cannot use."""
        check_fields(self)


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _recipes().iterdir() if entry.name.endswith(".yaml"))


def load_config(schema: type[Config], recipe: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """A configuration whose values are within their ranges: the schema's defaults, then the recipe, then the overrides.

    Combinations of values are not checked here but by ``config.check()``, which a task calls.

    Args:
        schema: dataclass that defines the keys and their types.
        recipe: name of a bundled recipe, path of a YAML file, or None.
        overrides: ``key.sub=value``, values in YAML.

    Raises:
        ConfigError: for an unknown key (with the nearest one), a value of the wrong type, or a required key that is
            missing.
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
    if config.precision == "False":  # YAML parses precision=no as False
        config.precision = "no"
    check_fields(config)
    return config


def describe_config(schema: type[RunConfig], recipe: str | Path | None, overrides: Sequence[str] = ()) -> str:
    """The configuration that :func:`load_config` would give, as YAML; required values that are missing are ``???``."""
    return OmegaConf.to_yaml(_merged(schema, recipe, overrides))


def current_names(content: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Nested mappings with the keys of earlier versions by their names now; the rest as it is.

    Raises:
        ConfigError: if both names of a key are given.
    """
    result: dict[str, Any] = copy.deepcopy(dict(content))
    for old, new in renamed.items():
        *sections, last = old.split(".")
        section: Any = result
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and last in section:
            current = new.rpartition(".")[2]
            if current in section:
                raise ConfigError(f"{old} is called {new} now, and both are given; remove {old}.")
            section[current] = section.pop(last)
    return result


def _merged(schema: type[RunConfig], recipe: str | Path | None, overrides: Sequence[str]) -> DictConfig:
    known = list(key_names(schema))
    layers = []
    if recipe is not None:
        origin, text = read_recipe(recipe)
        content: Any = OmegaConf.to_container(_parse(text, origin))
        try:
            layers.append((origin, OmegaConf.create(current_names(content, schema.renamed_keys))))
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from error
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not KEY=VALUE. Overrides look like data.root=/videos.")
        if key in schema.renamed_keys:
            new = schema.renamed_keys[key]
            raise ConfigError(f"{override}: {key} is called {new} now; pass {new}={value}.")
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
    """Bundled recipes whose keys all belong to this configuration."""
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
    """Dotted names of a schema's leaves; the name of a mapping ends in ``.*``, and its contents are not checked
    here."""
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
    except Exception as error:  # includes PyYAML's own classes, which OmegaConf does not wrap
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
