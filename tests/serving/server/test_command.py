"""python -m serving: a real server is started, asked, and told to end; mistakes are told before it starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from registry import ConfigError
from serving.__main__ import main
from serving.reranker import Reranker
from serving.server.address import listen
from serving.server.hall import Hall
from serving.server.learner import Learner
from serving.server.loading import load, named

DOCUMENTS = ["open the file", "sort a list", "return the value of a key"]


@pytest.mark.slow
def test_a_server_starts_ranks_and_ends_in_order(folder: Path) -> None:
    command = [sys.executable, "-m", "serving", str(folder), f"other={folder}", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert server.stdout is not None and server.stderr is not None
        guard = threading.Timer(120, server.kill)
        guard.start()
        ready = server.stdout.readline()
        assert ready.startswith("Ready: http://127.0.0.1:"), ready + server.stderr.read()
        assert ready.endswith("serves tiny (rerank), other (rerank)\n")
        url = ready.split()[1]
        body = {"query": "sort", "documents": DOCUMENTS, "raw_scores": True, "model": "other"}
        found = httpx.post(f"{url}/v1/rerank", json=body).json()["results"]
        assert httpx.get(f"{url}/ready").json() == {"ready": True}
        server.send_signal(signal.SIGTERM)
        _, logged = server.communicate(timeout=60)
        guard.cancel()
    finally:
        server.kill()
    assert server.returncode == 0, logged
    assert [(each["index"], each["relevance_score"]) for each in found] == [
        (each.index, each.score) for each in Reranker.from_pretrained(folder).rank("sort", DOCUMENTS)
    ]
    lines = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
    assert [line["route"] for line in lines] == ["/v1/rerank", "/ready"] and "Traceback" not in logged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such run"),
        (["{folder}", "{folder}"], "have the same name"),
        (["{folder}", "--host", "0.0.0.0"], "0.0.0.0 lets other machines in, and there is no API key"),
        (["{folder}", "--api-key-file", "nowhere"], "nowhere: cannot be read: No such file"),
        (["{folder}", "--api-key-file", "{short}"], "API key: has fewer than 16 characters"),
        (["{folder}", "--learn-after", "0"], "--learn-after: has to be 1 or more"),
        (["{folder}", "--endpoint", "http://localhost:9/v1"], "--endpoint: needs --endpoint-model"),
        (["{folder}", "--timeout", "0"], "--timeout: has to be 1 or more"),
        (["{folder}", "--timeout", "inf"], "--timeout: has to be a finite number"),
        (["{folder}", "--batch-seconds", "nan"], "--batch-seconds: has to be a finite number"),
        (["{folder}", "--pool", "a=nowhere"], "nowhere: no such pool"),
        (["{folder}", "--port", "70000"], "--port: has to be from 0 to 65535, got 70000"),
        (["{folder}", "--port", "-1"], "--port: has to be from 0 to 65535, got -1"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short"
    short.write_text("letters")
    assert main([each.format(folder=folder, short=short) for each in arguments]) == 1
    told = capsys.readouterr().err
    assert message in told and "What to do: " in told


@pytest.mark.parametrize("key", ["a key with the letter ж", "a key with a\u00a0 blank", "a key with\x07 a bell"])
def test_keys_that_clients_send_in_different_ways_are_refused(
    folder: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    assert main([str(folder), "--api-key-file", str(tmp_path / "key")]) == 1
    told = capsys.readouterr().err
    assert "API key: holds more than printable ASCII" in told and "What to do: " in told and key not in told
    monkeypatch.setenv("RANKERS_ENDPOINT_KEY", key)
    assert main([str(folder), "--endpoint", "http://localhost:9/v1", "--endpoint-model", "big"]) == 1
    told = capsys.readouterr().err
    assert "RANKERS_ENDPOINT_KEY: holds more than printable ASCII" in told and "What to do: " in told


def test_a_file_of_the_key_that_is_no_text_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe" * 20)
    assert main([str(folder), "--api-key-file", str(tmp_path / "key")]) == 1
    assert "cannot be read: it is no text in UTF-8" in capsys.readouterr().err


def test_a_taken_port_is_told_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.server.loading.load", lambda *arguments: pytest.fail("it was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([str(folder), "--port", port]) == 1
    told = capsys.readouterr().err
    assert f"--port: {port} of 127.0.0.1 is taken by another program" in told and "give another port" in told


def test_a_host_that_is_not_this_machine_is_told_before_anything_is_loaded() -> None:
    for host, problem in (("nowhere.invalid", "cannot be resolved"), ("192.0.2.1", "no address of this machine")):
        with pytest.raises(ConfigError, match=f"{problem}(.|\n)*give an address of this machine"):
            listen(host, 0)


def test_a_name_with_several_addresses_listens_on_one_port_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{place}", 0)) for place in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found)
    sockets = listen("localhost", 0)
    names = [each.getsockname() for each in sockets]
    for each in sockets:
        each.close()
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"] and names[0][1] == names[1][1] > 0


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lets the command run here, and records what is closed at its end; one that hangs is told to end."""
    closed: list[str] = []

    def note(kind: Any) -> Any:
        close = kind.close

        async def noted(self: Any) -> None:
            closed.append(kind.__name__)
            await close(self)

        return noted

    for kind in (Hall, Learner):
        monkeypatch.setattr(kind, "close", note(kind))
    monkeypatch.setattr("serving.server.logs.set_up_logs", lambda: None)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    guard = threading.Timer(60, os.kill, (os.getpid(), signal.SIGTERM))
    guard.start()
    yield closed
    guard.cancel()
    for each, handler in before.items():
        signal.signal(each, handler)


def test_a_server_that_is_told_to_end_while_it_loads_ends_in_order(
    folder: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    closing = threading.Event()

    def loads_for_long(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert closing.wait(30)

    async def shut_down(self: Any) -> None:
        closing.set()
        await shutdown(self)

    from uvicorn.lifespan.on import LifespanOn

    shutdown = LifespanOn.shutdown
    monkeypatch.setattr(LifespanOn, "shutdown", shut_down)
    monkeypatch.setattr("serving.server.loading.load", loads_for_long)
    assert main([str(folder), "--port", "0"]) == 0
    assert in_this_process == ["Learner", "Hall"] and "Ready" not in capsys.readouterr().out


def test_a_server_that_is_told_to_end_just_before_it_starts_ends_as_well(
    folder: Path,
    in_this_process: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = uvicorn.Server.run

    def told(self: uvicorn.Server, sockets: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        start(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "run", told)
    monkeypatch.setattr("serving.server.loading.load", lambda *arguments: None)
    assert main([str(folder), "--port", "0"]) == 0
    assert in_this_process == ["Learner", "Hall"] and "Ready" not in capsys.readouterr().out


def test_a_server_that_cannot_train_heads_ends_and_says_why(
    folder: Path,
    in_this_process: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert main([str(folder), "--port", "0"]) == 1
    told = capsys.readouterr()
    assert "temporary folder: cannot be made" in told.err and "set TMPDIR" in told.err and "Ready" not in told.out
    assert in_this_process == ["Learner", "Hall"]


def test_a_run_is_named_after_its_config_and_a_folder_after_itself(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "quickstart" / "2026-01-31_12-00-00"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    (tmp_path / "mine.ckpt").write_text("")
    given = [str(run), str(folder), str(tmp_path / "mine.ckpt"), f"x={run}"]
    assert [each.name for each in named(given, "run")] == ["quickstart", "tiny", "mine", "x"]


def test_a_pool_cannot_have_the_name_of_a_rankers_own(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is the name of each ranker's own pool"):
        load(Hall(), named([str(folder)], "run"), named([f"own={folder}"], "pool"))


def test_missing_packages_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main([str(folder)]) == 1
    assert 'uvicorn: is not installed.\n  What to do:   pip install -c constraints.txt -e ".[serve]"' in (
        capsys.readouterr().err
    )
