"""The house has one direction: who may import whom, and where an import may hide inside a function."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "midway_zoo"

# Lower floors first. A module may import modules of its own room and of lower floors.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("version", "errors", "timm_hook", "bars", "extras", "style"),
    ("reading",),
    ("files", "checks"),
    ("config", "manifest"),
    ("names",),
    ("results",),
    ("storage",),
    ("models",),
    ("weights",),
    ("flow",),
    ("inference",),
    ("scenes", "visualize", "extract"),
    ("exporting",),
    ("readouts",),
    ("analysis",),
    ("figures",),
    ("demo",),
    ("app",),
    ("train",),
    ("benchmarks",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Upward on purpose, inside a function: timm asks a registered model for its pretrained weights itself, and so does
# huggingface_hub's mixin the class of a network.
HOPS = {("models.encoder", "weights.load"), ("models.network", "weights.sharing")}

# Imports inside functions: (module or its beginning, what it imports). Everything else is imported at the top.
INSIDE = (
    ("cli", "midway_zoo"),  # start-up time: help and usage errors must not wait for torch
    ("cli", "torch"),
    ("cli", "huggingface_hub"),
    ("extras", "importlib.metadata"),  # asked only when something is missing
    ("inference.flow", "midway_zoo.inference.refinement"),  # options that most flow does without
    ("inference.flow", "midway_zoo.flow.consistency"),
    ("models.encoder", "midway_zoo.weights.load"),  # the hops
    ("models.network", "midway_zoo.weights.sharing"),
    ("weights.registry", "midway_zoo.weights"),
    ("weights.load", "midway_zoo.weights"),
    ("weights.checkpoint", "midway_zoo.weights"),  # readers of one format each, loaded when such a file is read
)
HEAVY = (
    "av",
    "h5py",
    "accelerate",
    "torch.distributed",
    "omegaconf",
    "torchvision",
    "tensorboard",
    "PIL",
    "matplotlib",
    "gradio",
    "pyarrow",
    "ray",
    "cv2",
    "torchcodec",
)
NOT_EVERYWHERE = ("resource",)  # of the standard library, on Unix


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(what is imported, whether inside a function); what only a type checker reads does not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                known = whole.removeprefix("midway_zoo.") in MODULES
                yield (whole if known else str(node.module)), inside
        yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def arrows() -> list[tuple[str, str, bool]]:
    """(module, module of the package that it imports, inside a function)."""
    found = []
    for name, path in MODULES.items():
        for target, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if target == "midway_zoo" or target.startswith("midway_zoo."):
                found.append((name, target.removeprefix("midway_zoo").removeprefix("."), inside))
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in MODULES if name not in ("", "__main__")}
    assert rooms == set(FLOOR) & rooms, f"without a floor: {sorted(rooms - set(FLOOR))}"


def test_imports_go_down() -> None:
    wrong = []
    for module, target, _ in arrows():
        if module == "" or module.endswith("__main__") or room(module) == room(target):
            continue
        if (module, target) in HOPS:
            continue
        if target == "" or FLOOR[room(target)] >= FLOOR[room(module)]:
            wrong.append(f"{module} -> {target or 'midway_zoo itself'}")
    assert not wrong, wrong


def test_no_module_is_in_a_circle() -> None:
    """Also with the imports inside functions; the hops aside."""
    targets: dict[str, set[str]] = {name: set() for name in MODULES}
    for module, target, _ in arrows():
        if target in MODULES and target != module and (module, target) not in HOPS:
            targets[module].add(target)
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert state.get(module) != 1, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module in state:
            return
        state[module] = 1
        for target in sorted(targets[module]):
            visit(target, (*path, module))
        state[module] = 2

    for name in MODULES:
        visit(name, ())


def test_imports_inside_functions_are_the_listed_ones() -> None:
    wrong = []
    for name, path in MODULES.items():
        for target, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if not inside or target.startswith(HEAVY + NOT_EVERYWHERE):
                continue
            if not any(
                (name == module or name.startswith(f"{module}.")) and target.startswith(allowed)
                for module, allowed in INSIDE
            ):
                wrong.append(f"{name} -> {target}")
    assert not wrong, wrong


def test_only_the_command_line_imports_the_trainer() -> None:
    """And what only the command line imports, which is one more room."""
    above = ("train", "benchmarks", "cli")
    assert not [module for module, target, _ in arrows() if room(target) == "train" and room(module) not in above]
    assert not [
        module for module, target, _ in arrows() if room(target) == "benchmarks" and room(module) not in above[1:]
    ]


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.stem)
def test_files_are_about_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def lengths(path: Path) -> Iterator[tuple[str, int]]:
    """(function, its lines without the docstring)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node, clean=False) is not None
            text = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - text


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.stem)
def test_functions_are_short(path: Path) -> None:
    assert not [(name, lines) for name, lines in lengths(path) if lines >= 60]


TESTS = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_files_of_tests_are_about_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
