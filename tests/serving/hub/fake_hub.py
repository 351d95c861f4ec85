"""A hub on loopback: takes commits as the Hugging Face hub does, and serves the files of each for download."""

import base64
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

_PARENT = "huggingface_hub.constants"


class FakeHub(ThreadingHTTPServer):
    """Repositories of models, each a list of commits, which are the files by their paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.refused = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        return self.commits[name][-1]

    def add(self, name: str, folder: Path) -> None:
        """A repository with the files of a folder."""
        self.commits[name] = [{file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}]

    def sha(self, name: str) -> str:
        return hashlib.sha1(f"{name} {len(self.commits[name])}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and content in one packet: two would wait for each other
    server: FakeHub

    def log_message(self, *arguments: Any) -> None:
        """Nothing: tests read what a command prints."""

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.server.refused:
            self._json({"error": "You have no right to do this"}, 403)
        elif parts[1:] == ["repos", "create"]:
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.commits.setdefault(name, [{}])
            self._json({"url": f"{self.server.address}/{name}"})
        elif parts[1:] == ["validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [{"path": each["path"]} for each in json.loads(content)["files"]]
            self._json({"files": [each | {"uploadMode": "regular", "shouldIgnore": False} for each in files]})
        else:
            assert parts[4] == "commit"
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in content.splitlines()])

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.files(name))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.commits[name].append(files)
        url = f"{self.server.address}/{name}/commit/{self.server.sha(name)}"
        self._json({"commitUrl": url, "commitOid": self.server.sha(name)})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.server.commits:
            self._reply(b"", 404, {"X-Error-Code": "RepoNotFound"})
            return
        files = self.server.files(name)
        if parts[0] != "api":
            self._file(name, files.get("/".join(parts[4:])))
        elif "tree" in parts:
            self._json(
                [{"type": "file", "path": path, "size": len(each), "oid": _oid(each)} for path, each in files.items()]
            )
        else:
            self._json({"id": name, "sha": self.server.sha(name), "siblings": [{"rfilename": path} for path in files]})

    def _file(self, name: str, content: bytes | None) -> None:
        commit = {"X-Repo-Commit": self.server.sha(name)}
        if content is None:
            self._reply(b"", 404, commit | {"X-Error-Code": "EntryNotFound"})
        else:
            self._reply(content, 200, commit | {"ETag": f'"{_oid(content)}"'})

    def _json(self, content: Any, status: int = 200) -> None:
        self._reply(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _reply(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub that huggingface_hub talks to, for somebody who is logged in and has an empty cache."""
    hub = FakeHub()
    Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{_PARENT}.ENDPOINT", hub.address)
    monkeypatch.setattr(f"{_PARENT}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Before version 1, a copy of it was used.
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(f"{_PARENT}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield hub
    hub.shutdown()
    hub.server_close()
