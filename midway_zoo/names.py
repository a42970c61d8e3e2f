"""Names of models. Nothing here needs torch."""

import fnmatch
from pathlib import Path

from midway_zoo.config import ARCHITECTURES
from midway_zoo.errors import UnknownModelError, nearest
from midway_zoo.manifest import pretrained_names


def list_models(pattern: str | None = None, pretrained: bool | None = None) -> list[str]:
    """Names that :func:`midway_zoo.create_model` accepts, sorted.

    Args:
        pattern: shell-style, such as ``"midway_vit*"`` or ``"*.bdd100k"``.
        pretrained: True for names with weights ("architecture.tag") only, False for bare architectures
            only, None for both.
    """
    names: list[str] = []
    if pretrained is not True:
        names += ARCHITECTURES
    if pretrained is not False:
        names += pretrained_names()
    return sorted(name for name in names if pattern is None or fnmatch.fnmatch(name, pattern))


def split_name(name: str) -> tuple[str, str | None]:
    """(architecture, pretrained name or None) of a listed name; a bare architecture stands for its first tag.

    Raises:
        UnknownModelError: with the nearest names, if the name is not listed.
    """
    listed = list_models()
    if not isinstance(name, str) or name not in listed:
        shown = nearest(str(name), listed) or f" Known: {', '.join(listed)}."
        where = f" midway_zoo.load_checkpoint({name!r}) loads the file or folder of that name." if _exists(name) else ""
        raise UnknownModelError(f"unknown model {name!r}.{shown} midway_zoo.list_models() shows all.{where}")
    architecture = name.partition(".")[0]
    tagged = [known for known in pretrained_names() if known == name or known.startswith(f"{name}.")]
    return architecture, tagged[0] if tagged else None


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (TypeError, OSError, ValueError):  # not a string, too long for a path, a null character
        return False
