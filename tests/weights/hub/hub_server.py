"""A loopback server that speaks enough of the Hugging Face Hub's protocol for the real client.

Point ``HF_ENDPOINT`` of a process to ``HubServer.endpoint`` (see :meth:`HubServer.environ`)::

    with HubServer() as server:
        server.add_repo("org/name")
        server.add_file("org/name", "weights.pth", Path("weights.pth"), lfs=True)
        server.faults.add("cut", match="weights.pth", at=1000)  # see hub_faults.KINDS

Like the Hub, it redirects downloads of LFS files to signed URLs of another host ("cdn", a second port),
and serves small files itself. Xet is never advertised, so clients fall back to plain HTTP and to LFS.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union
from urllib.parse import parse_qs, quote, unquote, urlencode

from tests.weights.hub.blobs import CHUNK, LFS_SUFFIXES, Blob, is_lfs
from tests.weights.hub.faults import Faults
from tests.weights.hub.hub_faults import Handler, HubError, Listener, RequestRecord
from tests.weights.hub.repos import Repo

Content = Union[bytes, str, Path]  # in memory, or the path of a file on disk
NO_XET = "this server has no Xet storage: set HF_HUB_DISABLE_XET=1 before huggingface_hub is imported"


@dataclass
class Link:
    """A signed URL of the CDN: to download `blob`, or to upload the object `oid`."""

    file: tuple[str, str]  # repository and path
    expires: float
    blob: Blob | None = None
    oid: str = ""


class HubServer:
    """The server: a context manager with a registry of repositories, records of requests and faults.

    ``TOKEN`` is the token of ``USER``, who may read and write everything; ``STRANGER_TOKEN`` is valid but
    grants nothing on gated or private repositories. Any other token is refused, as are writes without one.
    """

    TOKEN, STRANGER_TOKEN, USER = "hf_owner", "hf_stranger", "tester"

    def __init__(
        self,
        *,
        link_lifetime: float = 3600.0,
        resolve_cache: bool = False,
        latency: float = 0.0,
        bits_per_second: float | None = None,
    ) -> None:
        """`resolve_cache`: redirect small files to a relative Location first, as the Hub does since 2025.

        `latency`: seconds before each reply, a round trip of a distant server; and as long again before the first on
        a connection. `bits_per_second`: of all bodies together.
        """
        self.latency, self.bits_per_second = latency, bits_per_second
        self.chunk = 1 << 16 if bits_per_second else CHUNK  # small ones, so that replies share the line
        self._line_free = 0.0  # when the last byte that was paced is through
        self.link_lifetime, self.resolve_cache = link_lifetime, resolve_cache
        self.users = {self.TOKEN: self.USER, self.STRANGER_TOKEN: "stranger"}
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, Blob] = {}  # LFS objects by sha256
        self.links: dict[str, Link] = {}  # by signature
        self.faults = Faults()
        self.errors: list[BaseException] = []  # bugs of this server: tests should find it empty
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.records: list[RequestRecord] = []
        self._listeners: list[Listener] = []

    def __enter__(self) -> HubServer:
        self._folder = tempfile.TemporaryDirectory(prefix="hub-server-")
        self.uploads = Path(self._folder.name)
        self._listeners = [
            Listener(self, "hub", HubHandler),
            Listener(self, "cdn", CdnHandler),
            Listener(self, "twin", HubHandler),
        ]
        ports = [listener.start() for listener in self._listeners]
        # another name for the CDN, not just another port: huggingface_hub 2.0 tells the Hub by host name
        self.endpoint, self.cdn_endpoint = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"
        self.twin_endpoint = f"http://localhost:{ports[2]}"  # the same Hub at another origin, for "redirect"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closing.set()
        for listener in self._listeners:
            listener.stop()
        self._folder.cleanup()

    def environ(self, home: str | Path, token: str | None = None) -> dict[str, str]:
        """Return an environment in which processes use this server, with `home` as HF_HOME, and no other."""
        env = {k: v for k, v in os.environ.items() if not re.match(r"HF_|HUGGING|TRANSFORMERS_OFFLINE", k)}
        flags = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        env.update({"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), **dict.fromkeys(flags, "1")})
        env.update(dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"))
        if token:
            env["HF_TOKEN"] = token
        return env

    def add_repo(self, repo_id: str, *, gated: bool = False, private: bool = False) -> Repo:
        """Register a repository, with the first commit that the Hub makes."""
        with self.lock:
            repo = self.repos[repo_id] = Repo(repo_id, gated, private)
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
            repo.commit({".gitattributes": Blob.of(attributes.encode(), lfs=False)}, "initial commit")
        return repo

    def add_file(self, repo_id: str, path: str, content: Content, *, lfs: bool | None = None, sha256: str = "") -> str:
        """Commit a file (bytes, or the path of a file on disk) to main and return the commit's sha.

        Without `lfs`, the name and size decide. Give the `sha256` of a huge file to spare the time to compute it.
        """
        size = len(content) if isinstance(content, bytes) else os.path.getsize(content)
        blob = Blob.of(content, is_lfs(path, size) if lfs is None else lfs, sha256)
        with self.lock:
            self.objects.update({blob.sha256: blob} if blob.lfs else {})
            return self.repos[repo_id].commit({path: blob}, f"Add {path}").sha

    def sha(self, repo_id: str, revision: str = "main") -> str:
        """Return the full sha of a revision."""
        return self.repos[repo_id].at(revision).sha

    @property
    def requests(self) -> list[RequestRecord]:
        """Records of the requests so far, in order of arrival."""
        with self.lock:
            return list(self.records)

    def bytes_sent(self, host: str | None = None, match: str = "") -> int:
        """Count bytes of bodies sent by "hub", "cdn" or both, for targets that contain `match`."""
        return sum(r.bytes_sent for r in self.requests if host in (None, r.host) and match in r.target)

    def reset(self) -> None:
        """Forget the requests so far. Faults stay: see ``faults.clear()``."""
        with self.lock:
            self.records.clear()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond the server's end."""
        if seconds > 0 and self.closing.wait(seconds):
            raise ConnectionAbortedError("the server is closing")

    def pace(self, size: int) -> None:
        """Wait until the line of `bits_per_second` has room for `size` bytes, in turn with all other replies."""
        if self.bits_per_second:
            with self.lock:
                begin = max(self._line_free, time.monotonic())
                self._line_free = begin + 8 * size / self.bits_per_second
            self.wait(self._line_free - time.monotonic())

    def expire_links(self) -> None:
        """Let all signed URLs given out so far expire."""
        with self.lock:
            for link in self.links.values():
                link.expires = 0.0

    def sign(self, path: str, **link: Any) -> str:
        """Make a signed URL of the CDN."""
        signature, expires = secrets.token_hex(16), time.time() + self.link_lifetime
        self.links[signature] = Link(expires=expires, **link)
        query = {"Expires": int(expires), "Signature": signature, "Key-Pair-Id": "TEST"}
        return f"{self.cdn_endpoint}{path}?{urlencode(query)}"


REPO, REV = r"(?P<repo>[^/]+(?:/[^/]+)??)", r"(?P<rev>[^/]+)"
RESOLVE = f"/{REPO}/resolve/{REV}/(?P<path>.+)"
CACHED = rf"/api/resolve-cache/models/(?P<repo>[^/]+/[^/]+)/{REV}/(?P<path>.+)"
ROUTES = {  # handler's method -> HTTP method and pattern of the path, which is unquoted group by group
    "resolve": ("GET", RESOLVE),
    "resolve_cached": ("GET", CACHED),
    "info": ("GET", f"/api/models/{REPO}(?:/revision/{REV})?"),
    "tree": ("GET", f"/api/models/{REPO}/tree/{REV}(?:/(?P<path>.+))?"),
    "history": ("GET", f"/api/models/{REPO}/commits/{REV}"),
    "xet_token": ("GET", f"/api/models/{REPO}/xet-(?:read|write)-token/{REV}"),
    "paths_info": ("POST", f"/api/models/{REPO}/paths-info/{REV}"),
    "branch": ("POST", f"/api/models/{REPO}/branch/{REV}"),
    "preupload": ("POST", f"/api/models/{REPO}/preupload/{REV}"),
    "commit": ("POST", f"/api/models/{REPO}/commit/{REV}"),
    "lfs_batch": ("POST", rf"/{REPO}\.git/info/lfs/objects/batch"),
    "lfs_verify": ("POST", rf"/{REPO}\.git/info/lfs/verify"),
    "create": ("POST", "/api/repos/create"),
    "validate_yaml": ("POST", "/api/validate-yaml"),
    "whoami": ("GET", "/api/whoami-v2"),
}


class HubHandler(Handler):
    """The Hub itself: the API, small files, and redirects to the CDN. ROUTES says what each method answers."""

    def file(self) -> tuple[str, str] | None:
        match = re.fullmatch(CACHED, self.url.path) or re.fullmatch(RESOLVE, self.url.path)
        return (unquote(match["repo"]), unquote(match["path"])) if match else None

    def route(self) -> None:
        for name, (method, pattern) in ROUTES.items():
            match = re.fullmatch(pattern, self.url.path)
            if match and method == self.command.replace("HEAD", "GET"):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value}
                with self.hub.lock:  # released while a file is sent: see `resolve`
                    reply = getattr(self, name)(**groups)
                return self.send_blob(*reply) if isinstance(reply, tuple) else None
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def user(self) -> str | None:
        """Return the name of the user, None without a token."""
        token = self.headers.get("Authorization", "").replace("Bearer ", "", 1)
        if token and token not in self.hub.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def open(self, repo_id: str, *, content: bool = False, write: bool = False) -> Repo:
        """Return a repository if the user may see it, and (if asked for) its contents, and write to it."""
        user, repo = self.user(), self.hub.repos.get(repo_id)
        if (repo is None or repo.private or write) and user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if repo is None or (repo.private and user != self.hub.USER):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if content and repo.gated and user != self.hub.USER:
            message = f"Access to model {repo_id} is restricted" + ("" if user else ". Please log in.")
            raise HubError(403 if user else 401, message, "GatedRepo")
        if write and user != self.hub.USER:
            raise HubError(403, f"You don't have the rights to write to {repo_id}")
        return repo

    def resolve(self, repo: str, rev: str, path: str) -> Any:
        commit = self.open(repo, content=True).at(rev)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        if not blob.lfs and not self.hub.resolve_cache:
            return blob, {"X-Repo-Commit": commit.sha}
        etag = blob.etag("hub")
        linked = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": blob.size, "X-Repo-Commit": commit.sha}
        if blob.lfs:
            location = self.hub.sign(f"/repos/{blob.sha256[:2]}/{blob.sha256}", file=(repo, path), blob=blob)
        else:
            location = f"/api/resolve-cache/models/{repo}/{commit.sha}/{quote(path)}"
        headers = {**linked, "Accept-Ranges": "bytes", "Location": location}
        return self.send_bytes(302 if blob.lfs else 307, b"Redirecting", headers)

    def resolve_cached(self, repo: str, rev: str, path: str) -> Any:
        commit = self.open(repo, content=True).at(rev)
        return commit.files[path], {"X-Repo-Commit": commit.sha}

    def info(self, repo: str, rev: str = "main") -> None:
        found = self.open(repo)
        commit = found.at(rev)
        siblings = []
        for path, blob in sorted(commit.files.items()):
            info = blob.info()
            lfs = {"lfs": {**info["lfs"], "sha256": blob.sha256}} if blob.lfs else {}
            more = {"size": blob.size, "blobId": blob.oid, **lfs} if "blobs" in self.query else {}
            siblings.append({"rfilename": path, **more})
        state = {"private": found.private, "gated": "auto" if found.gated else False, "disabled": False}
        rest = {"author": repo.split("/")[0], "downloads": 0, "likes": 0, "tags": [], "lastModified": commit.date}
        self.send_json({"id": repo, "modelId": repo, "sha": commit.sha, "siblings": siblings, **state, **rest})

    def tree(self, repo: str, rev: str, path: str = "") -> None:
        commit = self.open(repo).at(rev)
        recursive, expand = (self.query.get(key, "").lower() in ("1", "true") for key in ("recursive", "expand"))
        entries = commit.tree(path, recursive, expand)
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {rev}", "EntryNotFound")
        self.send_json(entries)

    def paths_info(self, repo: str, rev: str) -> None:
        commit = self.open(repo).at(rev)
        form = parse_qs(self.body.decode())
        expand = form.get("expand", [""])[0].lower() == "true"
        self.send_json([entry for path in form.get("paths", []) if (entry := commit.entry(path, expand))])

    def history(self, repo: str, rev: str) -> None:
        commits = self.open(repo).at(rev).history()
        self.send_json([{"id": c.sha, "title": c.title, "date": c.date, "message": "", "authors": []} for c in commits])

    def branch(self, repo: str, rev: str) -> None:
        found = self.open(repo, write=True)
        if rev in found.refs:
            raise HubError(409, f"Reference already exists: refs/heads/{rev}")
        found.refs[rev] = found.at(json.loads(self.body or b"{}").get("startingPoint", "main"))
        self.send_json({})

    def xet_token(self, repo: str, rev: str) -> None:
        # the client shows neither headers nor body of the reply, but the URL at which it failed
        self.send_bytes(307, b"", {"Location": f"/{NO_XET.replace(' ', '-')}", "X-Error-Message": NO_XET})

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self.send_json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})

    def validate_yaml(self) -> None:
        self.send_json({"errors": [], "warnings": []})

    def create(self) -> None:
        request, user = json.loads(self.body), self.user()
        if user != self.hub.USER:
            raise HubError(403 if user else 401, "Invalid username or password.")
        repo_id = f"{request.get('organization') or user}/{request['name']}"
        reply = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            return self.send_json({"error": "You already created this model repo", **reply}, 409)
        self.hub.add_repo(repo_id, private=request.get("private") or request.get("visibility") == "private")
        self.send_json(reply)

    def preupload(self, repo: str, rev: str) -> None:
        commit = self.open(repo, write=True).at(rev)
        files = []
        for path, size in ((file["path"], file["size"]) for file in json.loads(self.body)["files"]):
            oid = {"oid": commit.files[path].linked_oid} if path in commit.files else {}
            mode = "lfs" if is_lfs(path, size) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        self.send_json({"files": files, "commitOid": commit.sha})

    def lfs_batch(self, repo: str) -> None:
        self.open(repo, write=True)
        verify = {"href": f"{self.hub.endpoint}/{repo}.git/info/lfs/verify"}
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.objects:
                href = self.hub.sign(f"/upload/{item['oid']}", file=(repo, item["oid"]), oid=item["oid"])
                item["actions"] = {"upload": {"href": href}, "verify": verify}
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_verify(self, repo: str) -> None:
        if json.loads(self.body)["oid"] not in self.hub.objects:
            raise HubError(404, "Object does not exist")
        self.send_json({"message": "Object is valid"})

    def commit(self, repo: str, rev: str) -> None:
        found = self.open(repo, write=True)
        header: dict[str, str] = {}
        changes: dict[str, Blob | None] = {}
        if rev not in found.refs:
            raise HubError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        if "create_pr" in self.query:
            raise HubError(400, "this server has no pull requests")
        files = found.at(rev).files
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, self.body.splitlines())):
            if key == "header":
                header = value
            elif key == "file":
                changes[value["path"]] = Blob.of(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise HubError(400, f"LFS object {value['oid']} was not uploaded. If it was by Xet: {NO_XET}")
                changes[value["path"]] = self.hub.objects[value["oid"]]
            else:
                folder = value["path"].rstrip("/") + "/"
                gone = [p for p in files if p == value["path"] or (key == "deletedFolder" and p.startswith(folder))]
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
                changes.update(dict.fromkeys(gone))
        if header.get("parentCommit", found.at(rev).sha) != found.at(rev).sha:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        sha = found.commit(changes, header.get("summary", ""), rev).sha
        self.send_json({"commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}", "success": True})


class CdnHandler(Handler):
    """The host of LFS objects: signed URLs to download and to upload."""

    def link(self) -> Link | None:
        return self.hub.links.get(self.query.get("Signature", ""))

    def file(self) -> tuple[str, str] | None:
        link = self.link()
        return link.file if link else None

    def route(self) -> None:
        link = self.link()
        if link and self.take("expire"):
            link.expires = 0.0
        if link is None or link.expires < time.time():
            raise HubError(403, "Request has expired")
        if self.command == "PUT" and link.oid:
            blob = Blob.of(self.upload, lfs=True)
            if blob.sha256 != link.oid:
                raise HubError(400, "the content does not match its sha256")
            self.hub.objects[blob.sha256] = blob
            self.send_bytes(200, b"", {"ETag": blob.etag("cdn")})
        elif self.command in ("GET", "HEAD") and link.blob:
            self.send_blob(link.blob)
        else:
            raise HubError(405, "Method not allowed")
