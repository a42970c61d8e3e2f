"""A griffe extension: what docstrings write in Sphinx's way, in Markdown, and defaults that say what they are."""

import re
from typing import Any

import griffe

_RESULT = re.compile(r"^((?:Returns|Yields):\n\s+)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|exc):`(~?)([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """``:class:`~a.B``` becomes a link to ``a.B`` where the reference has it, and else plain code."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Once everything is loaded, so that names can be resolved."""
        _visit(pkg)


def _visit(found: griffe.Object) -> None:
    if found.docstring is not None:
        text = _ROLE.sub(lambda match: _link(match, found), found.docstring.value)
        # What stands before a colon would be taken for the type, which the signature says already.
        found.docstring.value = _RESULT.sub(r"\1: ", text)
    if isinstance(found, griffe.Attribute):
        _show_default(found)
    for member in found.members.values():
        if not member.is_alias:
            _visit(member)  # type: ignore[arg-type]


def _link(match: re.Match[str], found: griffe.Object) -> str:
    tilde, name = match.groups()
    shown = name.rpartition(".")[2] if tilde else name
    try:
        path = name if name.startswith("midway_zoo") else found.resolve(name)
    except griffe.NameResolutionError:
        path = name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'


def _show_default(found: griffe.Attribute) -> None:
    """``field_range(4, at_least=1)`` checks what is given; what a reader wants to know is 4."""
    value = found.value
    if isinstance(value, griffe.ExprCall) and str(value.function) == "field_range":
        positional = [one for one in value.arguments if not isinstance(one, griffe.ExprKeyword | griffe.ExprVarKeyword)]
        found.value = positional[0] if positional else None
