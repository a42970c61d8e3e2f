"""Parsing of the command line: argparse, with suggestions for misspelled words."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from midway_zoo.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser that adds ``--quiet`` and ``--verbose`` to every command, and suggests corrections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log progress to stderr"
        )
        self.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            default=argparse.SUPPRESS,
            help="no progress bars, no warnings, and only results on stdout",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in argparse, but remember the parser of the innermost command, which knows the flags."""
        options, further = super().parse_known_args(args, namespace)
        if not hasattr(options, "parser"):
            options.parser = self
        return options, further

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Exit with 2, naming unknown arguments and similar flags."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = [nearest(word.partition("=")[0], known) for word in words if word.startswith("-")]
        self.error(f"unrecognized arguments: {' '.join(words)}.{''.join(dict.fromkeys(near))}")

    def error(self, message: str) -> NoReturn:
        """As in argparse, with the nearest choice as a suggestion."""
        found = re.search(r"invalid choice: '([^']*)'.*\(choose from (.*)\)", message)
        if found and "maybe you meant" not in message:
            message += "." + nearest(found[1], re.findall(r"[\w.-]+", found[2]))
        super().error(message.rstrip("."))
