"""Files of visitors: a folder for each, removed when they leave."""

import hashlib
import shutil
import threading
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.files import write_json, write_png, write_safetensors


class Rooms:
    """The visitors' folders, inside one that the server removes when it stops."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._uploads: defaultdict[str, set[Path]] = defaultdict(set)
        self._lock = threading.Lock()
        self._number = count()

    def of(self, visitor: str) -> Path:
        """The folder of a visitor, named by a hash, since the visitor's identifier is not trusted as a file name."""
        return self.folder / f"visitor-{hashlib.sha256(visitor.encode()).hexdigest()[:20]}"

    def picture(self, visitor: str, name: str, image: Tensor, about: Mapping[str, Any]) -> Path:
        """Write a picture (3, H, W) uint8 under a new path, since browsers cache by path."""
        path = self._fresh(visitor) / f"{name}.png"
        write_png(path, image, metadata=about)
        return path

    def bundle(
        self, visitor: str, pictures: Sequence[Path], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> Path:
        """Everything that is shown and the numbers behind it, in one ZIP file."""
        folder = self._fresh(visitor)
        numbers, facts = folder / "numbers.safetensors", folder / "about.json"
        write_safetensors(numbers, tensors, about)
        write_json(facts, dict(about))
        path = folder / "midway-zoo.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:  # PNG is compressed already
            for part in (*pictures, numbers, facts):
                if part.exists():  # old files are removed while a page is left open
                    file.write(part, part.name)
        numbers.unlink()
        facts.unlink()
        return path

    def note_uploads(self, visitor: str, paths: Sequence[Path]) -> None:
        """Note a visitor's uploads, to be removed later."""
        with self._lock:
            self._uploads[visitor].update(paths)

    def forget_uploads(self, visitor: str, *, but: Path | None = None) -> None:
        """Remove a visitor's uploads except ``but``, and those another visitor sent too: Gradio stores equal files
        once."""
        with self._lock:
            paths = self._uploads.pop(visitor, set())
            if but is not None:
                self._uploads[visitor].add(but)
            others = set().union(*self._uploads.values())
        for path in paths - others:
            if self.folder in path.parents:
                path.unlink(missing_ok=True)

    def leave(self, visitor: str) -> None:
        """Remove everything of a visitor."""
        self.forget_uploads(visitor)
        shutil.rmtree(self.of(visitor), ignore_errors=True)

    def _fresh(self, visitor: str) -> Path:
        folder = self.of(visitor) / str(next(self._number))
        folder.mkdir(parents=True)
        return folder
