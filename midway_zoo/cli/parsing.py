"""How the command line is read: argparse, with the nearest known word where one is wrong."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from midway_zoo.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser whose commands all take ``--quiet`` and ``--verbose``, and that suggests what may have been meant."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log what is going on to stderr"
        )
        self.add_argument(
            "-q",
            "--quiet",
            action="store_true",
            default=argparse.SUPPRESS,
            help="no progress bars, no warnings, nothing on stdout that a result does not consist of",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; the parser of the innermost command is noted, since it knows which flags there are."""
        options, further = super().parse_known_args(args, namespace)
        if not hasattr(options, "parser"):
            options.parser = self
        return options, further

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Exit with 2 and say which arguments are not known, and which flags are near."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = [nearest(word.partition("=")[0], known) for word in words if word.startswith("-")]
        self.error(f"unrecognized arguments: {' '.join(words)}.{''.join(dict.fromkeys(near))}")

    def error(self, message: str) -> NoReturn:
        """As argparse, with the nearest of the choices."""
        found = re.search(r"invalid choice: '([^']*)'.*\(choose from (.*)\)", message)
        if found and "maybe you meant" not in message:
            message += "." + nearest(found[1], re.findall(r"[\w.-]+", found[2]))
        super().error(message.rstrip("."))
