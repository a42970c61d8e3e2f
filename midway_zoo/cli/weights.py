"""Commands about weights: download, verify, cache, push, manifest. What they need is imported when they run."""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any

from midway_zoo import manifest
from midway_zoo.cli.manifest_schema import validate
from midway_zoo.errors import CheckpointError, ConfigError, UnknownModelError, nearest
from midway_zoo.manifest import bundled_file
from midway_zoo.names import list_models, split_name

_MANIFEST = (
    "check: validate the schema. pin: get commits, sizes and digests from the Hub (for bundled weights, size and "
    "digest from their file), write them, and show a diff."
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's commands."""
    command = commands.add_parser(
        "download", help="fetch pretrained weights", description="Fetch pretrained weights into the cache, verified."
    )
    command.add_argument("name", metavar="NAME", help="a pretrained name")
    command.add_argument("--part", choices=("encoder", "network"), default="network", help="default: %(default)s")
    command.add_argument("--encoder", choices=("teacher", "student"), default="teacher", help="default: %(default)s")
    command.add_argument("--revision", help="branch, tag or commit; default: the manifest's")
    command.add_argument(
        "--keep-file", action="store_true", help="keep the whole file, if the server allows no less than that"
    )
    _add_cache_dir(command)
    command.set_defaults(run=_download)

    command = commands.add_parser(
        "verify",
        help="check weights",
        description="Check every tensor of a file, or of the cached parts of a name, against checksums; for bundled "
        "weights, also compare their outputs with the golden ones.",
    )
    command.add_argument("target", metavar="NAME|PATH", help="a pretrained name, or a file of weights")
    command.add_argument(
        "--full",
        action="store_true",
        help="for a NAME on the Hub: read its whole source file once, without storing it, and compare its SHA-256",
    )
    _add_cache_dir(command)
    command.set_defaults(run=_verify)

    command = commands.add_parser("cache", help="list or free cached weights", description="List cached weights.")
    command.add_argument("--clear", metavar="NAME", help="remove the parts of a name, or of all names ('all')")
    _add_cache_dir(command)
    command.set_defaults(run=_cache)

    command = commands.add_parser(
        "push",
        help="publish a converted folder on the Hub",
        description="Publish a folder of `midway-zoo convert` (DIR for this package, DIR/encoder for timm), with a "
        "model card.",
    )
    command.add_argument("folder", metavar="DIR", type=Path, help="folder that `midway-zoo convert` wrote")
    command.add_argument("repo_id", metavar="ORG/REPO", help="repository on the Hub; created if it does not exist")
    command.add_argument("--private", action="store_true", help="create the repository as private")
    command.set_defaults(run=_push)

    command = commands.add_parser("manifest", help="check or pin weights_manifest.json", description=_MANIFEST)
    command.add_argument("action", choices=("check", "pin"), help="what to do")
    command.add_argument("path", nargs="?", type=Path, default=manifest.manifest_path(), help="default: %(default)s")
    command.add_argument(
        "--parts", action="store_true", help=argparse.SUPPRESS
    )  # an option of earlier versions, now the default
    command.add_argument("--no-parts", action="store_true", help="pin: leave out the parts, which have to be fetched")
    command.add_argument(
        "--full", action="store_true", help="pin: also hash each whole source file, as `verify --full`"
    )
    command.set_defaults(run=_manifest)


def _add_cache_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache-dir", type=Path, help="folder to use instead of the Hub's cache")


def _download(options: argparse.Namespace) -> None:
    from midway_zoo.weights.hub import fetch, parts_for
    from midway_zoo.weights.load import check_bundled, check_request

    name = _pretrained_name(options.name)
    entry = manifest.find(name)
    if entry["format"] == manifest.BUNDLED:
        check_request(name, encoder=options.encoder, revision=options.revision)
        sys.stdout.write(f"{name} is bundled, nothing needs to be fetched: {check_bundled(name, entry)}\n")
        return
    parts = [options.encoder] if options.part == "encoder" else parts_for(options.encoder, paired=False)
    paths = fetch(
        name, entry, parts, cache_dir=options.cache_dir, revision=options.revision, keep_file=options.keep_file
    )
    sys.stdout.writelines(f"{path}\n" for path in paths.values())


def _pretrained_name(name: str) -> str:
    return split_name(name)[1] or name  # a name without weights is refused when its entry is looked up


def _verify(options: argparse.Namespace) -> None:
    from midway_zoo.inference.golden import TOLERANCE, check_golden
    from midway_zoo.reading import sha256_of
    from midway_zoo.weights.cache import list_cache, load_part
    from midway_zoo.weights.checkpoint import load_checkpoint
    from midway_zoo.weights.load import load_bundled
    from midway_zoo.weights.pins import verify_source

    path = Path(options.target)
    if options.target not in list_models():
        load_checkpoint(path)  # checks CRC-32, completeness and finite numbers
        digest = f"  sha256 {sha256_of(path)}" if path.is_file() else ""
        sys.stdout.write(f"{path}: good{digest}\n")
        return
    name = _pretrained_name(options.target)
    entry = manifest.entries().get(name)
    if entry is not None and entry["format"] == manifest.BUNDLED:
        worst = check_golden(name, entry, load_bundled(name, entry))
        sys.stdout.write(
            f"{name} {bundled_file(entry)}: good  sha256 {entry['sha256']}\n"
            f"{name} outputs agree with the golden ones (largest difference {worst:.1e} of an output's scale, "
            f"{TOLERANCE:.0e} allowed)\n"
        )
        return
    cached = [item for item in list_cache(options.cache_dir) if item.name == name]
    if options.full:
        found = verify_source(name, manifest.find(name), cache_dir=options.cache_dir)
        sys.stdout.write(
            f"{name} {found.file} {found.commit[:12]}: good  sha256 {found.sha256} (all {found.size_bytes} bytes, the "
            "Hub says the same)\n"
        )
    elif not cached:
        raise CheckpointError(f"nothing of {name} is cached; `midway-zoo download {name}` fetches it.")
    for item in cached:
        for part, weights in item.parts.items():
            facts = load_part(weights, rehash=True).facts
            sys.stdout.write(f"{name} {part} {item.commit[:12]}: good  sha256 {facts['sha256']}\n")


def _cache(options: argparse.Namespace) -> None:
    from midway_zoo.weights.cache import clear_cache, list_cache

    if options.clear:
        cached = {item.name for item in list_cache(options.cache_dir)}
        if options.clear != "all" and options.clear not in cached:
            known = ", ".join(sorted(cached)) or "nothing"
            raise UnknownModelError(
                f"nothing of {options.clear!r} is cached.{nearest(options.clear, cached)} Cached is: {known}."
            )
        freed = clear_cache(None if options.clear == "all" else options.clear, options.cache_dir)
        sys.stdout.write(f"{freed / 1e6:.1f} MB freed\n")
        return
    items = list_cache(options.cache_dir)
    if not items and not options.quiet:
        sys.stderr.write("nothing is cached\n")
    for item in items:
        parts = ", ".join(sorted(item.parts))
        sys.stdout.write(f"{item.name}  {item.commit[:12]}  {item.size_bytes / 1e6:.1f} MB  {parts}\n")


def _push(options: argparse.Namespace) -> None:
    from midway_zoo.weights.sharing import push_folder

    for url in push_folder(options.folder, options.repo_id, private=options.private):
        sys.stdout.write(f"{url}\n")


def _manifest(options: argparse.Namespace) -> None:
    from midway_zoo.files import write_json

    try:
        text = options.path.read_text(encoding="utf-8")
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{options.path} is not JSON: {error}") from error
    if problems := validate(content):
        raise ConfigError(f"{options.path}: {len(problems)} problem(s): {' '.join(problems)}")
    if options.action == "check":
        sys.stdout.write(f"{options.path}: {len(content['models'])} models, valid\n")
        return
    for name, entry in content["models"].items():
        _pin(name, entry, with_parts=not options.no_parts, full=options.full)
    write_json(options.path, content, overwrite=True)
    after = options.path.read_text(encoding="utf-8")
    lines = difflib.unified_diff(text.splitlines(True), after.splitlines(True), "before", "after")
    sys.stdout.writelines(lines)


def _pin(name: str, entry: dict[str, Any], *, with_parts: bool, full: bool) -> None:
    from huggingface_hub import constants

    from midway_zoo.reading import sha256_of
    from midway_zoo.weights.hub import PARTS, fetch
    from midway_zoo.weights.pins import open_source, verify_source
    from midway_zoo.weights.remote import is_commit

    if entry["format"] == manifest.BUNDLED:
        path = bundled_file(entry)
        if not path.is_file():
            raise CheckpointError(f"{name}: {path} is not there; examples/miniature/bundle.py writes it.")
        entry.update(size_bytes=path.stat().st_size, sha256=sha256_of(path))
        return
    remote, where = open_source(name, entry, revision=constants.DEFAULT_REVISION)
    if remote.sha256 is None or not is_commit(remote.commit):
        raise CheckpointError(
            f"{where}: the server gives ETag {remote.etag} and commit {remote.commit}, no SHA-256 and no commit id to "
            "pin. Pin from the Hub itself (unset HF_ENDPOINT)."
        )
    moved = entry["sha256"] not in (None, remote.sha256)
    entry.update(revision=remote.commit, size_bytes=remote.size, sha256=remote.sha256)
    if moved:  # other contents: the pins of its parts no longer hold
        entry["parts"] = {part: {"size_bytes": None, "sha256": None} for part in PARTS}
    if full:
        verify_source(name, entry)
    if with_parts:
        for part, path in fetch(name, entry, list(PARTS)).items():
            entry["parts"][part] = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
