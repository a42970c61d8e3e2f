"""Repositories of the loopback Hub of :mod:`hub_server`: commits and the refs to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.weights.hub.blobs import Blob
from tests.weights.hub.hub_faults import HubError


@dataclass(frozen=True)
class Commit:
    """A snapshot of a repository."""

    files: Mapping[str, Blob]
    parent: Commit | None
    title: str
    key: str  # tells commits apart that are the same otherwise
    date: str = "2024-01-01T00:00:00.000Z"

    @cached_property
    def sha(self) -> str:
        """Id of the commit, the same in each run."""
        content = [(path, blob.oid) for path, blob in sorted(self.files.items())]
        parent = self.parent.sha if self.parent else None
        return hashlib.sha1(repr((parent, self.key, self.title, content)).encode()).hexdigest()

    def history(self) -> Iterator[Commit]:
        """Yield this commit and its ancestors."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def last(self, path: str) -> dict[str, str]:
        """Tell of the commit that last changed `path`, in the form of listings."""
        for commit in self.history():
            if commit.parent is None or commit.parent.files.get(path) is not self.files.get(path):
                break
        return {"id": commit.sha, "title": commit.title, "date": commit.date}

    def entry(self, path: str, expand: bool) -> dict[str, Any] | None:
        """Return the listing's entry of a file or folder, or None."""
        extra = {"lastCommit": self.last(path), "securityFileStatus": None} if expand else {}
        if path in self.files:
            return {"type": "file", "path": path, **self.files[path].info(), **extra}
        if not any(name.startswith(f"{path}/") for name in self.files):
            return None
        oid = hashlib.sha1(f"{self.sha}/{path}".encode()).hexdigest()
        return {"type": "directory", "path": path, "oid": oid, "size": 0, **extra}

    def tree(self, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        """List a folder ("" for the root)."""
        prefix = f"{folder}/" if folder else ""
        depth, paths = prefix.count("/") + 1, set[str]()
        for parts in (name.split("/") for name in self.files if name.startswith(prefix)):
            depths = range(depth, len(parts) + 1) if recursive else (depth,)
            paths.update("/".join(parts[:depth]) for depth in depths)
        return [entry for path in sorted(paths) if (entry := self.entry(path, expand))]


@dataclass
class Repo:
    """A repository: its commits and the refs to them."""

    id: str
    gated: bool
    private: bool
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """Find a commit by branch or full sha."""
        commit = self.refs.get(revision) or self.commits.get(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def commit(self, changes: Mapping[str, Blob | None], title: str, branch: str = "main") -> Commit:
        """Add files, or delete those given as None, in one commit."""
        parent = self.refs.get(branch)
        files = {**(parent.files if parent else {}), **changes}
        kept = {path: blob for path, blob in files.items() if blob is not None}
        commit = Commit(kept, parent, title, f"{self.id}#{len(self.commits)}")
        self.commits[commit.sha] = self.refs[branch] = commit
        return commit
