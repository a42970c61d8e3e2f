"""The documentation, as far as it can be checked without building it: what it names, and that what it shows runs."""

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import midway_zoo as mz
import midway_zoo.analysis
import midway_zoo.scenes
from midway_zoo import flow, visualize
from midway_zoo.cli import build_parser
from midway_zoo.config import ARCHITECTURES
from midway_zoo.errors import MidwayZooError
from tests.weights.released_files import write_released

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md"))
REFERENCE = {
    name
    for page in (DOCS / "reference").glob("*.md")
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
}
BLOCK = re.compile(r"(<!-- needs: (\w+) -->\n)?```python\n(.*?)```", re.DOTALL)
FAQ = (DOCS / "faq.md").read_text()


def load(name: str) -> ModuleType:
    """A module of docs/mkdocs, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "mkdocs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resolve(path: str) -> Any:
    """midway_zoo.flow.read_flow -> the function."""
    found: Any = mz
    for index, part in enumerate(path.split(".")[1:], 1):
        if not hasattr(found, part):
            found = importlib.import_module(".".join(path.split(".")[: index + 1]))
        else:
            found = getattr(found, part)
    return found


def errors() -> dict[str, type]:
    """Every public error of the package by name."""
    import midway_zoo.inference.video
    import midway_zoo.train.loop  # noqa: F401

    found, waiting = {}, [MidwayZooError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("midway_zoo") and not kind.__name__.startswith("_"):
            found[kind.__name__] = kind
    return found


def test_every_public_name_is_in_the_reference() -> None:
    modules = {"analysis": midway_zoo.analysis, "scenes": midway_zoo.scenes, "flow": flow}
    wanted = {f"midway_zoo.{name}" for name in mz.__all__ if name not in ("flow", "visualize", "__version__")}
    wanted |= {f"midway_zoo.{room}.{name}" for room, module in modules.items() for name in module.__all__}
    wanted |= {
        f"midway_zoo.visualize.{name}"
        for name, value in vars(visualize).items()
        if getattr(value, "__module__", None) == "midway_zoo.visualize" and not name.startswith("_")
    }
    assert wanted <= REFERENCE


def test_the_reference_names_what_there_is() -> None:
    for name in REFERENCE:
        assert resolve(name).__doc__, name


def test_every_command_and_option_is_on_its_page() -> None:
    commands = load("commands")
    page = commands.markdown(build_parser())
    assert "<!-- generated: commands -->" in (DOCS / "cli.md").read_text()
    assert str(ROOT) not in page
    for name, parser in commands.parsers(build_parser()):
        assert f"### {name}\n" in page
        assert parser.description, name
        for action in parser._actions:
            assert action.help, (name, action)
    assert page.count("### midway-zoo ") > 20
    assert "`--blocks` `BLOCKS`" in page


def test_every_error_has_its_place_in_the_faq() -> None:
    kinds = errors()
    named = set(re.findall(r"^## (\w+Error)$", FAQ, re.MULTILINE))
    assert named == set(kinds) - {"MidwayZooError"}
    assert {name.rpartition(".")[2] for name in REFERENCE if name.endswith("Error")} == set(kinds)


def test_the_faq_quotes_what_errors_say() -> None:
    source = " ".join(path.read_text() for path in (ROOT / "midway_zoo").rglob("*.py"))
    source = re.sub(r"[\"']\s+(?:f|r)?[\"']", "", source)  # strings that go on in the next line
    section = FAQ.partition("## Not errors")[0]
    titles = re.findall(r"^\*\*(\".*?\")\*\*", section, re.MULTILINE)
    quoted = [text for title in titles for text in title[1:-1].split('", "')]
    assert len(quoted) > 25
    for text in quoted:
        for part in text.split(" ... "):
            assert part.removesuffix(" ...") in source, text


def test_pages_are_in_the_navigation() -> None:
    navigation = (DOCS / "mkdocs" / "mkdocs.yml").read_text()
    for page in re.findall(r"[\w/]+\.md", navigation.partition("nav:")[2].partition("plugins:")[0]):
        assert (DOCS / page).exists() or (ROOT / page).exists(), page
    for page in (DOCS / "reference").glob("*.md"):
        assert f"reference/{page.name}" in navigation


def test_readme_is_for_newcomers() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    assert all((ROOT / path).exists() for path in re.findall(r"\]\(((?!http)[^)#]+)", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page follow each other, and `expression  # (shape), ...` has that shape."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for _, needs, code in BLOCK.findall(page.read_text()):
        if needs == "network":  # tests/weights/hub does what it shows, on a loopback server
            compile(code, page.name, "exec")
            continue
        if needs == "checkpoint":
            write_released(tmp_path / "midway-bdd-vit-s-ep300.pth", ARCHITECTURES["midway_nano"])
        exec(compile(code, page.name, "exec"), names)
        for line in code.splitlines():
            expression, _, comment = line.partition("  # ")
            shape = re.match(r"\((\d+(?:, \d+)*,?)\)", comment)
            if shape and "=" not in expression.split("(")[0] and "push" not in expression:
                value = eval(expression, names)  # noqa: S307
                found = tuple(value.shape) if isinstance(value, torch.Tensor) else tuple(value)
                assert found == tuple(int(side) for side in shape[1].split(",") if side.strip()), line
