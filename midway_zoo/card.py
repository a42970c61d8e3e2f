"""The cards of what is published: nothing but what is known of the weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from midway_zoo.config import LEVELS, MidwayConfig
from midway_zoo.manifest import BUNDLED, load_manifest
from midway_zoo.version import __version__

if TYPE_CHECKING:
    from midway_zoo.models.network import MidwayNetwork

_TAGS = ("image-feature-extraction", "self-supervised", "video")


def network_card(network: "MidwayNetwork", repo_id: str | None = None) -> str:
    """A model card in Markdown, of nothing but what is known of this network."""
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
    """What of the full method this network leaves out."""
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
