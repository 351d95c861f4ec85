"""Downloads go on where they stopped, are checked, and say what to put where when they cannot be had."""

import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from features.reading import downloads
from features.reading.downloads import Download, fetch, fetch_all
from features.sources.recommendation import amazon_reviews, movielens
from features.sources.retrieval import esci, msmarco
from registry import ConfigError

CONTENT = bytes(range(256)) * 2000
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; what it does wrong is set by each test."""

    daemon_threads = True
    content, tag, ranges, status, stops_after = CONTENT, '"1"', True, 200, None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            return self.send_error(server.status)
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.stops_after])
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def told(download: Download) -> str:
    """What is printed while a file is fetched."""
    console = Console(file=StringIO())
    assert fetch(download, console).read_bytes() == CONTENT
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("hash", [SHA256, MD5])
def test_size_hash_and_terms_are_printed_and_the_file_is_fetched_once(server: Server, hash: str) -> None:
    download = Download(server.url, "ask first", len(CONTENT), hash)
    lines = told(download)
    assert f"{server.url} (512,000 bytes) to data/downloads/file.bin. Terms: ask first." in lines
    assert (
        f"data/downloads/file.bin: 512,000 bytes, {'md5' if hash == MD5 else 'sha256'} {hash} (as expected)." in lines
    )
    assert told(download) == "" and len(server.asked) == 1
    assert [file.name for file in Path("data/downloads").iterdir()] == ["file.bin"]


def test_without_a_known_hash_the_one_found_is_shown(server: Server) -> None:
    lines = told(Download(server.url, "none", file="sets/a.bin"))
    assert "of unknown size" in lines
    assert f"data/downloads/sets/a.bin: 512,000 bytes, sha256 {SHA256} (there is none to compare it with)" in lines


def test_several_files_are_fetched_to_one_folder(server: Server) -> None:
    files = [Download(server.url, "none", file=f"set/{name}") for name in "ab"]
    assert fetch_all(files) == Path("data/downloads/set")
    assert {file.name for file in Path("data/downloads/set").iterdir()} == {"a", "b"}


def test_a_broken_connection_is_taken_up_again(server: Server) -> None:
    server.stops_after = 100_000
    told(Download(server.url, "none", len(CONTENT), SHA256))
    assert server.asked == [None, *(f"bytes={start}-" for start in (100_000, 200_000, 300_000, 400_000, 500_000))]


def test_a_stopped_download_goes_on_in_another_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.stops_after, download = 100_000, Download(server.url, "none", len(CONTENT), SHA256)

    copy = downloads._copy

    def interrupt(*arguments: Any) -> None:
        copy(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(download)
    assert not Path("data/downloads/file.bin").exists()
    server.stops_after = None
    told(download)
    assert server.asked == [None, "bytes=100000-"]


def test_a_download_that_lacks_its_last_step_only_is_not_fetched_again(server: Server) -> None:
    Path("data/downloads").mkdir(parents=True)
    Path("data/downloads/file.bin.part").write_bytes(CONTENT)
    Path("data/downloads/file.bin.part.version").write_text('"1"')
    told(Download(server.url, "none", hash=SHA256))
    assert server.asked == ["bytes=512000-"]


@pytest.mark.parametrize("change", ["replaced", "no ranges", "no version", "weak version"])
def test_parts_of_different_files_are_never_put_together(server: Server, change: str) -> None:
    Path("data/downloads").mkdir(parents=True)
    Path("data/downloads/file.bin.part").write_bytes(b"old" * 1000)
    Path("data/downloads/file.bin.part.version").write_text("" if change == "no version" else '"0"')
    if change == "no ranges":
        server.ranges, server.tag = False, '"0"'
    if change == "weak version":
        server.tag, server.stops_after = 'W/"1"', 400_000
        with pytest.raises(ConfigError, match="closed early"):
            fetch(Download(server.url, "none"))
        assert server.asked[1:] == [None] * 3
        server.stops_after = None
    told(Download(server.url, "none", len(CONTENT), SHA256))


@pytest.mark.parametrize("wrong", ["hash", "size"])
def test_another_file_than_expected_is_not_kept(server: Server, wrong: str) -> None:
    server.content = CONTENT[:-1] + (b"!" if wrong == "hash" else b"")
    with pytest.raises(ConfigError) as error:
        fetch(Download(server.url, "none", len(CONTENT), SHA256))
    expected = f"instead of {SHA256}" if wrong == "hash" else "has 511,999 bytes instead of 512,000"
    assert expected in str(error.value) and "set features.source.path" in str(error.value)
    assert not list(Path("data/downloads").iterdir())


@pytest.mark.parametrize("wrong", ["hash", "size"])
def test_a_file_put_there_by_hand_is_checked_and_left_alone(server: Server, wrong: str) -> None:
    Path("data/downloads").mkdir(parents=True)
    Path("data/downloads/file.bin").write_bytes(CONTENT[::-1] if wrong == "hash" else b"")
    with pytest.raises(ConfigError, match=r"instead of .*\n.*remove it and try again"):
        fetch(Download(server.url, "none", len(CONTENT), SHA256))
    assert Path("data/downloads/file.bin").exists() and not server.asked


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (500, 3)])
def test_a_refusal_says_what_to_put_where(server: Server, status: int, attempts: int) -> None:
    server.status = status
    with pytest.raises(ConfigError) as error:
        fetch(Download(server.url, "none"))
    assert f"{server.url}: cannot be downloaded (HTTP status {status}" in str(error.value)
    assert f"put it at {Path('data/downloads/file.bin').resolve()}" in str(error.value)
    assert len(server.asked) == attempts


def test_without_a_network_the_error_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be downloaded \(.*refused\)") as error:
        fetch(Download("http://127.0.0.1:9/ml-1m.zip", "none"))
    assert f"put it at {tmp_path / 'data/downloads/ml-1m.zip'}; or set features.source.path" in str(error.value)


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "FOLDER", Path("data/downloads"))
    (tmp_path / "data").write_text("a file")
    with pytest.raises(
        ConfigError, match=r"/data/downloads/a.zip.part: cannot be written(.|\n)*or set features.source"
    ):
        fetch(Download("http://nowhere.invalid/a.zip", "none"))


def test_a_full_disk_is_reported_before_the_download(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match=r"needs 512,000 bytes more, and the disk has 1,000 free"):
        fetch(Download(server.url, "none"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file\.bin\.part: cannot be written"):
        fetch(Download("http://127.0.0.1:9/file.bin", "none"))


def test_processes_at_once_fetch_a_file_once(server: Server) -> None:
    download = Download(server.url, "none", len(CONTENT), SHA256)
    with ThreadPoolExecutor(8) as pool:
        paths = [job.result() for job in [pool.submit(fetch, download) for _ in range(8)]]
    assert {path.read_bytes() for path in paths} == {CONTENT} and len(server.asked) == 1
    assert [file.name for file in Path("data/downloads").iterdir()] == ["file.bin"]


def test_every_published_file_has_an_address_terms_and_a_place_of_its_own() -> None:
    published = [*movielens.DOWNLOADS.values(), *esci.DOWNLOADS]
    published += [file for files in msmarco.DOWNLOADS.values() for file in files]
    published += [
        file
        for edition in (2014, 2018, 2023)
        for file in amazon_reviews.AmazonReviews(edition=edition).downloads  # type: ignore[arg-type]
    ]
    for file in published:
        assert re.fullmatch(r"https://[\w./:-]+", file.url) and file.terms
        assert file.hash is None or re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", file.hash)
    assert len({file.path for file in published}) == len(published)
