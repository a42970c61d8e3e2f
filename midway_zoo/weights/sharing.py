"""Networks and encoders as folders: writing, publishing on the Hub with a card, and fetching."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm.models
from huggingface_hub import (
    HfApi,
    constants,
    snapshot_download,
)
from safetensors import SafetensorError, safe_open
from timm.models.vision_transformer import VisionTransformer

from midway_zoo.config import ARCHITECTURES, LEVELS, MidwayConfig
from midway_zoo.errors import (
    CheckpointError,
    MidwayZooError,
    MissingFileError,
    WeightsUnavailableError,
)
from midway_zoo.files import write_json, write_safetensors
from midway_zoo.manifest import BUNDLED, load_manifest
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import METADATA_KEY, stand_in
from midway_zoo.storage import CONFIG, WEIGHTS, load_folder
from midway_zoo.version import __version__
from midway_zoo.weights.explain import explain, network_errors

ENCODER_FOLDER = "encoder"
# The keys of timm's configuration that belong to the weights, not to their source.
_TIMM_KEYS = (
    *("input_size", "fixed_input_size", "interpolation", "crop_pct", "mean", "std", "num_classes"),
    *("pool_size", "first_conv", "classifier", "license", "paper_ids", "paper_name"),
)


def save_network(network: MidwayNetwork, folder: Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write ``model.safetensors`` and ``config.json``; the weights file alone is enough to load."""
    provenance = {**network.provenance, **(provenance or {})}
    metadata = {"config": network.config.to_dict(), "provenance": provenance, "midway_zoo": __version__}
    write_safetensors(folder / WEIGHTS, network.state_dict(), metadata, overwrite=True)
    write_json(folder / CONFIG, {"library": "midway-zoo", **network.config.to_dict()}, overwrite=True)


def save_encoder(encoder: VisionTransformer, config: MidwayConfig, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write an encoder as timm's ``local-dir:`` and ``hf-hub:`` read it."""
    native = ARCHITECTURES[config.encoder].encoder_args
    args = {key: value for key, value in config.encoder_args.items() if value != native[key] and key != "img_size"}
    cfg = {key: encoder.pretrained_cfg[key] for key in _TIMM_KEYS if key in encoder.pretrained_cfg}
    write_safetensors(folder / WEIGHTS, encoder.state_dict(), {"provenance": dict(provenance)}, overwrite=True)
    description = {
        "architecture": config.encoder,
        "num_classes": 0,
        "num_features": config.embed_dim,
        "global_pool": "token",
        "model_args": args,
        "pretrained_cfg": {**cfg, "input_size": [3, *config.img_size], "custom_load": False},
    }
    write_json(folder / CONFIG, description, overwrite=True)


def push_folder(folder: Path, repo_id: str, *, token: str | None = None, private: bool = False) -> list[str]:
    """Publish a folder written by ``save_pretrained`` or `midway-zoo convert`, with a card.

    Args:
        folder: of a network, or of an encoder alone (``DIR/encoder``).
        repo_id: "org/name", created if needed.
        token: of the Hub, with the right to write.
        private: create it as private.

    Raises:
        MissingFileError: if the folder does not hold these files.
        CheckpointError: if they are damaged.
        WeightsUnavailableError: if the Hub refuses or cannot be reached.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise MissingFileError(f"{folder} holds no {WEIGHTS} and {CONFIG}; `midway-zoo convert` writes such a folder.")
    card = _card_of_folder(folder, repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        readme = Path(temporary) / "README.md"
        readme.write_text(card, encoding="utf-8")
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_file(path_or_fileobj=readme, path_in_repo="README.md", repo_id=repo_id)
            info = api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=[WEIGHTS, CONFIG])
        except network_errors() as error:
            raise WeightsUnavailableError(f"{repo_id} could not be written to: {error}") from error
    return [str(info)]


def _card_of_folder(folder: Path, repo_id: str) -> str:
    """The card of what is to be published, which is loaded first: nothing is published that does not load."""
    config, weights = folder / CONFIG, folder / WEIGHTS
    try:
        description = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(config, error) from error
    if not isinstance(description, dict) or not {"architecture", "encoder"} & set(description):
        raise _damaged(config, "it describes neither a network nor an encoder")
    if "architecture" not in description:  # not timm's
        return network_card(load_folder(MidwayNetwork, folder), repo_id)
    try:
        with safe_open(weights, framework="pt") as file:
            saved = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise _damaged(weights, error) from error
    provenance = saved.get("provenance", {}) if isinstance(saved, dict) else None
    if not isinstance(provenance, dict):
        raise _damaged(weights, "its metadata do not say where the weights are from")
    try:
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (MidwayZooError, OSError, MemoryError):
        raise
    except Exception as error:  # timm's and torch's, of whatever is there: AssertionError, ZeroDivisionError, ...
        raise _damaged(f"{folder}: {CONFIG} with {WEIGHTS}", error) from error
    return encoder_card({"architecture": str(description["architecture"])}, provenance, repo_id)


def _damaged(path: Path | str, problem: Exception | str) -> CheckpointError:
    """The error of a file, or of what a text names, that is not as it was written."""
    reason = " ".join(line.strip() for line in str(problem).splitlines()[:2]).rstrip(". ")  # torch lists every tensor
    found = stand_in(path) if isinstance(path, Path) else None
    return CheckpointError(f"{path} {found or f'is not what `midway-zoo convert` writes: {reason}. Convert again.'}")


def load_shared(build: type[MidwayNetwork], name: str | Path, **options: Any) -> MidwayNetwork:
    """The network of a folder or of a Hub repository "org/name"; see :meth:`MidwayNetwork.from_pretrained`.

    Raises:
        MissingFileError: if there is no such folder, and the name is not that of a repository.
        CheckpointError: if its content is damaged or not a Midway network.
        WeightsUnavailableError: if the repository is not available.
    """
    text = str(name)
    if Path(text).is_dir():
        return load_folder(build, Path(text))
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise MissingFileError(f"there is no folder {text}, and no Hub repository is called that (org/name).")
    return load_folder(build, download_folder(text, **options))


def download_folder(repo_id: str, **options: Any) -> Path:
    """The configuration and weights of a repository written by ``push_to_hub``, in the Hub's cache.

    Raises:
        WeightsUnavailableError: if they are not available.
    """
    try:
        return Path(snapshot_download(repo_id, allow_patterns=["config.json", "model.safetensors"], **options))
    except network_errors() as error:
        where = f"{constants.ENDPOINT}/{repo_id} at {options.get('revision') or constants.DEFAULT_REVISION}"
        raise explain(error, repo_id, where, repo_id) from error


_TAGS = ("image-feature-extraction", "self-supervised", "video")


def network_card(network: MidwayNetwork, repo_id: str | None = None) -> str:
    """A model card in Markdown, stating only what is known of this network."""
    config = network.config
    count = sum(parameter.numel() for parameter in network.parameters())
    facts = {
        "encoder": f"{config.encoder}: width {config.embed_dim}, depth {config.depth}, patch {config.patch_size}",
        "native size": f"{config.img_size[0]} x {config.img_size[1]} pixels",
        **({"motion latents": f"{config.motion_tokens} x {config.motion_dim}"} if config.dynamics else {}),
        **_variant(config),
        "encoders": "two, student and teacher" if config.paired else "one",
        "parameters": f"{count / 1e6:.2f} M",
    }
    if config.flow_head is not None:
        facts["flow head"] = f"DPT, tiles of {config.flow_size[0]} x {config.flow_size[1]} pixels"
    usage = [
        "import midway_zoo as mz",
        f'model = mz.create_model("hf-hub:{repo_id or "ORG/REPO"}")',
        "latent = mz.infer_motion_latent(model, source, target)"
        if config.dynamics
        else "features = mz.extract_features(model, images)",
    ]
    tags = [*_TAGS, "optical-flow"] if config.dynamics else [*_TAGS]
    return _card("midway-zoo", tags, facts, network.provenance, usage)


def _variant(config: MidwayConfig) -> dict[str, str]:
    """The parts of the full method that this network leaves out."""
    if not config.dynamics:
        return {"variant": "encoder alone, no dynamics"}
    absent = [f"no {name}" for name in ("backward", "refinement", "gating") if not getattr(config, name)]
    if config.levels != LEVELS:
        absent.append(f"levels {', '.join(map(str, config.levels))} only")
    return {"variant": "; ".join(absent)} if absent else {}


def encoder_card(facts: Mapping[str, str], provenance: Mapping[str, Any], repo_id: str) -> str:
    """The card of an encoder alone."""
    usage = ["import midway_zoo, timm", f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True)']
    return _card("timm", [*_TAGS, "timm"], facts, provenance, usage)


def _card(
    library: str, tags: list[str], facts: Mapping[str, str], provenance: Mapping[str, Any], usage: list[str]
) -> str:
    manifest = load_manifest()
    released = next((entry for entry in manifest["models"].values() if entry["file"] == provenance.get("source")), None)
    head = [
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    lines = ["---", *([f"license: {released['license']}"] if released else []), *head, "---", ""]
    lines += ["# Midway Network" + ("" if library == "midway-zoo" else ", encoder"), ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), "", "## Weights", ""]
    if released and released["format"] == BUNDLED:
        lines += [f"Trained by the midway-zoo project on {released['training_data']}; part of its package.", ""]
    elif released:
        lines += [
            f"Pretrained by the authors of the paper on {released['training_data']}, {released['epochs']} epochs; "
            f"file `{released['file']}` of [{released['repo_id']}](https://huggingface.co/{released['repo_id']}).",
            "",
        ]
    elif not provenance:
        lines += ["Where these weights come from is not recorded: they may be untrained.", ""]
    known = {key: value for key, value in provenance.items() if value is not None}
    lines += [f"- {key}: `{value}`" for key, value in known.items()]
    lines += ["", "## Use", "", "```python", *usage, "```", "", f"Written by midway-zoo {__version__}.", ""]
    bibtex = "\n\n".join(manifest["citations"].values())
    return "\n".join([*lines, "## Citation of the method", "", "```bibtex", bibtex, "```", ""])
