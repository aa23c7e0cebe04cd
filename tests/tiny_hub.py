"""A hub on this machine: repositories' files at one commit each, and which commit that is, in the protocol that
huggingface_hub speaks. Data sets are repositories whose names begin with `datasets/`.

A file of the `large` ones is answered with a redirection and its sha256, as the hub does for what stands in LFS.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORE = "/store/"
ABOUT = "/api/"
DATASETS = "datasets/"


@dataclass
class TinyHub:
    """What the hub holds, how it behaves, and what it was asked.

    files: {"owner/name" or "datasets/owner/name": {path: bytes}}; large: paths in LFS; gated: repositories that want the token.
    cut: bytes of each file's body after which connections break, or None; broken: it answers 503 to everything.
    requests: (method, path, Range header or "", bearer token or "") of each request.
    """

    files: dict[str, dict[str, bytes]]
    large: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    cut: int | None = None
    broken: bool = False
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)
    endpoint: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: TinyHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, self.path, self.headers.get("Range", ""), token))
        if self.hub.broken:
            return self._send(503, {}, b"")
        if self.path.startswith(STORE):
            repo = next(repo for repo in self.hub.files if self.path.startswith(f"{STORE}{repo}/"))
            return self._send_file(self.hub.files[repo][self.path.removeprefix(f"{STORE}{repo}/")], {})
        if self.path.startswith(ABOUT):
            return self._tell_about(self.path.removeprefix(ABOUT).removeprefix("models/"))
        kind, _, rest = self.path.lstrip("/").partition(DATASETS)
        owner, name, resolve, revision, path = (kind or rest).split("/", 4)
        repo = f"{owner}/{name}" if kind else f"{DATASETS}{owner}/{name}"
        if resolve != "resolve" or repo not in self.hub.files:
            return self._refuse(401, "RepoNotFound")
        if repo in self.hub.gated and token != self.hub.token:
            return self._refuse(403 if token else 401, "GatedRepo")
        if revision != COMMIT:
            return self._refuse(404, "RevisionNotFound")
        if path not in self.hub.files[repo]:
            return self._refuse(404, "EntryNotFound")
        content = self.hub.files[repo][path]
        about = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if path not in self.hub.large:
            return self._send_file(content, about)
        about |= {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        self._send(302, about | {"Location": f"{self.hub.endpoint}{STORE}{repo}/{path}"}, b"")

    def _tell_about(self, repo: str) -> None:
        if repo not in self.hub.files:
            return self._refuse(401, "RepoNotFound")
        body = json.dumps({"id": repo.removeprefix(DATASETS), "sha": COMMIT, "siblings": []}).encode()
        self._send(200, {"Content-Type": "application/json"}, body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code}, b"")

    def _send_file(self, content: bytes, about: dict[str, str]) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            about |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(206 if start else 200, about, content[start:])

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: self.hub.cut])
        self.close_connection = self.hub.cut is not None


@contextmanager
def serving(hub: TinyHub) -> Iterator[TinyHub]:
    """Serve a hub at `hub.endpoint` until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
