"""Publishing on the Hub: the network or the encoder, each with a card that is true of it."""

import json
import tempfile
from pathlib import Path

import timm.models
from huggingface_hub import HfApi
from safetensors import safe_open
from timm.models.vision_transformer import VisionTransformer

from midway_zoo.card import encoder_card, network_card
from midway_zoo.errors import MissingFileError, WeightsUnavailableError
from midway_zoo.files import METADATA_KEY
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import CONFIG, WEIGHTS, load_folder
from midway_zoo.weights.explain import network_errors


def push_encoder(encoder: VisionTransformer, repo_id: str, *, token: str | None = None, private: bool = False) -> str:
    """Publish a timm encoder so that ``timm.create_model("hf-hub:org/name", pretrained=True)`` reads it.

    Args:
        encoder: a Midway encoder, of timm or ``network.encoder``.
        repo_id: "org/name", created if needed.
        token: of the Hub, with the right to write.
        private: create it as private.

    Returns:
        Address of the commit.

    Raises:
        WeightsUnavailableError: if the Hub refuses or cannot be reached.
    """
    facts = {"parameters": f"{sum(parameter.numel() for parameter in encoder.parameters()) / 1e6:.2f} M"}
    try:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if not api.file_exists(repo_id, "README.md"):  # before timm, which would write a card of its own
            card = encoder_card(facts, {}, repo_id).encode()
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id)
        info = timm.models.push_to_hf_hub(
            encoder,
            repo_id,
            token=token,
            private=private,
            safe_serialization=True,
            task_name="image-feature-extraction",
        )
    except network_errors() as error:
        raise WeightsUnavailableError(f"{repo_id} could not be written to: {error}") from error
    return str(info)


def push_folder(folder: Path, repo_id: str, *, token: str | None = None, private: bool = False) -> list[str]:
    """Publish a folder of ``save_pretrained`` or `midway-zoo convert` as it is, with a card.

    Args:
        folder: of a network, or of an encoder alone (``DIR/encoder``).
        repo_id: "org/name", created if needed.
        token: of the Hub, with the right to write.
        private: create it as private.

    Raises:
        MissingFileError: if the folder holds no such files.
        CheckpointError: if what it holds is damaged.
        WeightsUnavailableError: if the Hub refuses or cannot be reached.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise MissingFileError(f"{folder} holds no {WEIGHTS} and {CONFIG}; `midway-zoo convert` writes such a folder.")
    description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "architecture" in description:  # timm's
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            saved = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        timm.create_model(f"local-dir:{folder}", pretrained=True)  # nothing that does not load is published
        facts = {"architecture": str(description["architecture"])}
        card = encoder_card(facts, saved.get("provenance", {}), repo_id)
    else:
        card = network_card(load_folder(MidwayNetwork, folder), repo_id)
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
