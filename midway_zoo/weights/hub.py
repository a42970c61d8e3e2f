"""Weights from the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download


def download_folder(repo_id: str, **options: Any) -> Path:
    """The configuration and weights of a repository written by ``push_to_hub``, in the Hub's cache."""
    return Path(snapshot_download(repo_id, allow_patterns=["config.json", "model.safetensors"], **options))
