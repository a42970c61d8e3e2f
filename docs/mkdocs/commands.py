"""The page of all commands, read off the parsers themselves."""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """("midway-zoo features", its parser), ...: every command that does something, in the order of the help."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        seen: set[int] = set()
        for inner in group.choices.values():
            if id(inner) not in seen:  # a command may have two names
                seen.add(id(inner))
                yield from parsers(inner)


def markdown(parser: argparse.ArgumentParser) -> str:
    """A section for each command: its description, usage and arguments."""
    return "\n\n".join(_section(name, command) for name, command in parsers(parser))


def _section(name: str, command: argparse.ArgumentParser) -> str:
    command.formatter_class = functools.partial(argparse.HelpFormatter, width=100)  # not that of a terminal
    usage = command.format_usage().removeprefix("usage: ").rstrip()
    parts = [f"### {name}", _prose(command.description), f"```text\n{usage}\n```"]
    rows = [_row(action, command) for action in command._actions if _is_shown(action)]
    if rows:
        parts.append("\n".join(["| argument | |", "|---|---|", *rows]))
    if command.epilog:
        parts.append(_prose(command.epilog))
    return "\n\n".join(part for part in parts if part)


def _is_shown(action: argparse.Action) -> bool:
    """Every command has the three that are left out; the page says so once."""
    return action.help != argparse.SUPPRESS and action.dest not in ("help", "verbose", "quiet")


def _row(action: argparse.Action, command: argparse.ArgumentParser) -> str:
    value = _value(action)
    if action.option_strings:
        name = ", ".join(f"`{flag}`" for flag in action.option_strings) + (f" `{value}`" if value else "")
    else:
        name = f"`{value}`"
    values = {**vars(action), "prog": command.prog}
    if isinstance(action.default, Path):
        values["default"] = action.default.name  # where it is depends on the machine
    text = (action.help or "") % values
    if action.choices is not None and action.metavar is not None:
        text += f" (one of {', '.join(map(str, action.choices))})"
    if action.required and action.option_strings:
        text = f"required. {text}" if text else "required"
    return f"| {_cell(name)} | {_cell(_prose(text))} |"


def _value(action: argparse.Action) -> str:
    """What an argument takes, as the help shows it."""
    if action.nargs == 0:
        return ""
    metavar = action.metavar
    if metavar is None:
        given = action.option_strings or action.choices is not None
        metavar = action.dest.upper() if given else action.dest
        if action.choices is not None:
            metavar = "{" + ",".join(map(str, action.choices)) + "}"
    word = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    many = {"*": f"[{word} ...]", "+": f"{word} [...]", "?": f"[{word}]"}
    if isinstance(action.nargs, int) and not isinstance(metavar, tuple):
        return " ".join([word] * action.nargs)
    return many.get(str(action.nargs), word)


def _prose(text: str | None) -> str:
    """Text of a help, with nothing in it that Markdown would take for its own."""
    text = " ".join((text or "").split())
    outside = text.split("`")
    for index in range(0, len(outside), 2):  # what is not between backticks
        for mark in "\\*_<[":
            outside[index] = outside[index].replace(mark, f"\\{mark}")
    return "`".join(outside)


def _cell(text: str) -> str:
    """Between backticks Markdown takes a bar for itself already."""
    parts = text.split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)
