"""What the site needs beside the pages of docs/: files from elsewhere in the repository, and generated text.

* A link to a file outside docs/ works here as it does in the repository: the file becomes part of the site.
* ``<!-- include: FILE.md#anchor -->`` is replaced by that section of another document.
* ``<!-- generated: commands -->`` is replaced by the commands, read off their parsers.
* Notebooks become pages with the outputs that are stored in them.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import commands  # beside this file
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

_logger = logging.getLogger("mkdocs.hooks")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = "examples/notebooks"
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_INCLUDE = re.compile(r"^<!-- include: ([\w./]+)#([\w-]+) -->$", re.MULTILINE)
_LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="?((?:https?:)?//[^\s">]+)""")
_COMMANDS = "<!-- generated: commands -->"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add to the navigation what it does not name: other pages of docs/, and the notebooks."""
    named = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    for section in config.nav or []:
        if "Guides" in section:
            section["Guides"] += sorted(path.name for path in DOCS.glob("*.md") if path.name not in named)
        if "Notebooks" in section:
            section["Notebooks"] += [_uri(path) for path in sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the repository, and everything that a page links to."""
    waiting = [path for path in _documents() if path.suffix in (".md", ".ipynb")]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if path.suffix == ".ipynb":
            text = _add_notebook(files, config, path)
        else:
            text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
            if files.get_file_from_path(_uri(path)) is None:
                files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
        for match in _LINK.finditer(text):
            target = _target(path, match[2])
            if target is not None and target not in seen:
                seen.add(target)
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Generated parts first; then links, by where the text is from."""
    del config, files
    origin = _origin(page.file.src_uri)
    markdown = _INCLUDE.sub(lambda match: _section(ROOT / match[1], match[2], origin), markdown)
    if _COMMANDS in markdown:
        from midway_zoo.cli import build_parser

        markdown = markdown.replace(_COMMANDS, commands.markdown(build_parser()))
    return _relinked(markdown, origin, page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn, and in a strict build fail, if a page would load something from elsewhere."""
    del config
    for match in _LOADED.finditer(output):
        _logger.warning("%s loads %s from outside", page.file.src_uri, match[1])
    return output


def _documents() -> list[Path]:
    documents = [ROOT / name for name in ("README.md", "MODEL_CARD.md", "CHANGELOG.md")]
    documents += [path for path in DOCS.rglob("*.md") if "mkdocs" not in path.relative_to(DOCS).parts]
    documents += sorted((ROOT / "examples").glob("*/README.md"))
    return documents + sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))


def _uri(path: Path) -> str:
    """Where a file of the repository is in the site."""
    where = path.relative_to(DOCS) if path.is_relative_to(DOCS) else path.relative_to(ROOT)
    return where.with_suffix(".md").as_posix() if path.suffix == ".ipynb" else where.as_posix()


def _origin(uri: str) -> Path:
    """The file that a page of the site is made of."""
    places = [DOCS / uri, ROOT / uri, (ROOT / uri).with_suffix(".ipynb")]
    return next(path for path in places if path.exists())


def _target(origin: Path, link: str) -> Path | None:
    """The file that a link in a document means, if it is one of the repository."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    path = (origin.parent / link).resolve()
    if path.is_dir():
        path = path / "README.md"
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _relinked(text: str, origin: Path, uri: str) -> str:
    def replace(match: re.Match[str]) -> str:
        target = _target(origin, match[2])
        if target is None:  # mkdocs complains of it, if it should be there
            return match[0]
        return match[1] + posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".") + match[3]

    return _LINK.sub(replace, text)


def _section(path: Path, anchor: str, origin: Path) -> str:
    """What is under a heading of a document, its links as seen from another one."""
    parts = re.split(r"^(#+) +(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for index in range(1, len(parts), 3):
        level, title = len(parts[index]), parts[index + 1]
        if re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") != anchor:
            continue
        body = parts[index + 2]
        for later in range(index + 3, len(parts), 3):
            if len(parts[later]) <= level:
                break
            body += f"{parts[later]} {parts[later + 1]}{parts[later + 2]}"
        return _moved(body.strip(), path, origin)
    raise ValueError(f"{path.name} has no section #{anchor}, which a page includes")


def _moved(text: str, path: Path, origin: Path) -> str:
    def replace(match: re.Match[str]) -> str:
        target = _target(path, match[2])
        here = match[2] if target is None else posixpath.relpath(target, origin.parent)
        return match[1] + here + match[3]

    return _LINK.sub(replace, text)


def _add_notebook(files: Files, config: MkDocsConfig, path: Path) -> str:
    """A page of a notebook, its pictures beside it. Returns the page's text."""
    body, resources = MarkdownExporter().from_filename(
        str(path), resources={"output_files_dir": path.stem, "unique_key": path.stem}
    )
    where = posixpath.dirname(_uri(path))
    name = posixpath.relpath(path.name, ".")
    body += f"\n\n[This page as a notebook]({name}): it was run as it is stored, on the model in the package.\n"
    files.append(File.generated(config, _uri(path), content=body))
    files.append(File.generated(config, f"{where}/{path.name}", abs_src_path=str(path)))
    outputs: dict[str, Any] = resources["outputs"]
    for output, data in outputs.items():
        files.append(File.generated(config, f"{where}/{output}", content=data))
    return body
