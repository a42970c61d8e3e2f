"""The command that installs an optional dependency, depending on how this package itself was installed."""

import json
from urllib.parse import unquote, urlsplit

_NAME = "midway-zoo"


def install_command(extra: str) -> str:
    """The command, such as ``pip install "midway-zoo[video]"``.

    If the package was installed from an editable checkout, a local folder, a wheel or a repository, the command names
    that source: the package index may not have the package, or another version of it.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution(_NAME).read_text("direct_url.json") or "null")
    except (PackageNotFoundError, ValueError):
        origin = None
    if not isinstance(origin, dict) or not isinstance(origin.get("url"), str):
        return f'pip install "{_NAME}[{extra}]"'
    url = origin["url"]
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {editable}"{_folder(url)}[{extra}]" (the extra {_NAME}[{extra}])'
    if "vcs_info" in origin:
        system, commit = origin["vcs_info"].get("vcs", "git"), origin["vcs_info"].get("commit_id")
        url = f"{system}+{url}" + (f"@{commit}" if commit else "")
    return f'pip install "{_NAME}[{extra}] @ {url}"'


def _folder(url: str) -> str:
    path = unquote(urlsplit(url).path)
    return path.lstrip("/") if path[2:3] == ":" else path  # /C:/... of Windows
