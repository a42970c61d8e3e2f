"""The schema of ``weights_manifest.json``, which `midway-zoo manifest check` validates."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midway_zoo.checks import is_integer, is_number
from midway_zoo.manifest import BUNDLED

SCHEMA_VERSION = 1
_PARTS = {"teacher", "student", "dynamics"}
_DIGEST, _COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, str) and pattern.fullmatch(value) is not None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return is_integer(value, 1)


def _is_size(value: Any) -> bool:
    return value is None or _is_count(value)


_Schema = dict[str, tuple[Callable[[Any], bool], str]]

_COMMON: _Schema = {
    "architecture": (_is_text, "the name of a registered architecture"),
    "file": (_is_text, "a file name"),
    "config": (lambda value: isinstance(value, dict), "a mapping of MidwayConfig fields"),
    "training_data": (_is_text, "a text"),
    "recipe": (_is_text, "the recipe of `midway-zoo train` that makes it"),
    "license": (_is_text, "a licence id"),
    "citation": (_is_text, "a key of citations"),
    "metrics": (lambda value: isinstance(value, list), "a list"),
}
_RELEASED: _Schema = _COMMON | {
    "repo_id": (lambda value: _is_text(value) and value.count("/") == 1, "a repository org/name"),
    "revision": (_matches(_COMMIT), "a full commit id, or null until pinned"),
    "format": (lambda value: value == "released-pth", f'"released-pth" or "{BUNDLED}"'),
    "size_bytes": (_is_size, "a positive integer, or null until pinned"),
    "sha256": (_matches(_DIGEST), "64 hexadecimal digits, or null until pinned"),
    "parts": (lambda value: isinstance(value, dict) and set(value) == _PARTS, "the parts teacher, student, dynamics"),
    "epochs": (_is_count, "a positive integer"),
}
_BUNDLED: _Schema = _COMMON | {
    "file": (lambda value: _is_text(value) and value == Path(value).name, "a file name without a folder"),
    "format": (lambda value: value == BUNDLED, f'"{BUNDLED}"'),
    "size_bytes": (_is_count, "a positive integer"),
    "sha256": (lambda value: value is not None and _matches(_DIGEST)(value), "64 hexadecimal digits"),
    "flow_recipe": (lambda value: value is None or _is_text(value), "the recipe of its flow head, or null"),
}
_PART = {key: _RELEASED[key] for key in ("size_bytes", "sha256")}
_METRIC: _Schema = {
    "name": (_is_text, "a text"),
    "value": (is_number, "a number"),
    "unit": (_is_text, "a unit"),
    "source": (_is_text, "where the number was reported"),
}


def validate(manifest: Any) -> list[str]:
    """Problems of a manifest, one line each; empty if it is valid.

    The schema, version 1: ``schema_version``, ``citations`` (BibTeX by key) and ``models``, by "architecture.tag". A
    model of the Hub has the keys of ``_RELEASED``: ``revision``, sizes and digests are null until
    `midway-zoo manifest pin` fills them in; from then on they are enforced. ``sha256`` is that of the source file,
    those below ``parts`` are of the safetensors file that each part becomes in the cache. A model that ships in the
    package has the keys of ``_BUNDLED``; its size and digest are always there and always enforced.
    """
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        return [f"schema_version must be {SCHEMA_VERSION}; a newer midway-zoo may be needed to read this manifest."]
    problems = [f"unknown key {key!r}" for key in manifest.keys() - {"schema_version", "citations", "models"}]
    citations, models = manifest.get("citations"), manifest.get("models")
    if not isinstance(citations, dict) or not isinstance(models, dict):
        return [*problems, "citations and models must be mappings."]
    for name, entry in models.items():
        bundled = isinstance(entry, dict) and entry.get("format") == BUNDLED
        found = _check(name, entry, _BUNDLED if bundled else _RELEASED)
        problems += found
        if found:
            continue
        if name.partition(".")[0] != entry["architecture"] or not name.partition(".")[2]:
            problems.append(f"{name}: a name is ARCHITECTURE.TAG, its architecture says {entry['architecture']!r}.")
        if entry["citation"] not in citations:
            problems.append(f"{name}: citation {entry['citation']!r} is not among citations.")
        for part, facts in ({} if bundled else entry["parts"]).items():
            problems += _check(f"{name}: part {part}", facts, _PART)
        for index, metric in enumerate(entry["metrics"]):
            problems += _check(f"{name}: metric {index}", metric, _METRIC)
    return problems


def _check(name: str, value: Any, schema: _Schema) -> list[str]:
    if not isinstance(value, dict):
        return [f"{name}: a mapping is expected."]
    problems = [f"{name}: unknown key {key!r}." for key in sorted(value.keys() - schema.keys())]
    for key, (holds, meaning) in schema.items():
        if key not in value:
            problems.append(f"{name}: {key} is missing.")
        elif not holds(value[key]):
            problems.append(f"{name}: {key}={value[key]!r} must be {meaning}.")
    return problems
