"""Plain verifier functions in worker processes: slow, crashing and raising ones cost one verdict each, and no more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import judging_rules
import pytest

from features.texts.tasks import Response, Task
from features.verification.verdict import Verdict, Verifier
from features.verification.workers import RuleVerifier, Workers, build_verifier
from ranking.stores.files import sha256_of
from registry import ConfigError

TASK = Task("q", "a query", [])
REPOSITORY = Path(__file__).resolve().parents[3]


def verdicts(responses: list[str], workers: Workers, **options: float) -> list[Verdict]:
    verifier = build_verifier({"name": "moody", **options}, workers)
    return list(verifier.verify((TASK, response) for response in responses))


def test_responses_are_judged_in_their_order_with_the_options_of_the_yaml() -> None:
    responses = ["a" * (place % 7) for place in range(500)]
    found = verdicts(responses, Workers(2), factor=2)
    assert found == [Verdict(2.0 * len(response)) for response in responses]


@pytest.mark.slow
def test_a_response_that_takes_too_long_gets_no_verdict_and_the_others_theirs() -> None:
    responses = ["a", "sleep", "bb", "spin", "ccc"]
    found = verdicts(responses, Workers(1, timeout=3.0))
    assert [verdict.label for verdict in found] == [1, None, 2, None, 3]
    assert found[1] == found[3] == Verdict(None, "timed out")


def test_loading_what_a_verifier_needs_is_no_time_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging_rules, "LOADED_FIRST", ("loads_slowly",), raising=False)
    assert verdicts(["load loads_slowly"], Workers(1, timeout=3.0)) == [Verdict(1.0)]


def test_a_worker_that_dies_costs_one_verdict() -> None:
    found = verdicts(["a", "die", "bb", "die", "die", "ccc"], Workers(2))
    assert [verdict.label for verdict in found] == [1, None, 2, None, None, 3]
    assert found[1] == found[3] == found[4] == Verdict(None, "crashed")


def test_a_worker_that_dies_in_the_middle_of_a_message_costs_one_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.verification.workers.serve", _breaks_off)
    assert verdicts(["a", "bb"], Workers(1)) == [Verdict(None, "crashed")] * 2


def test_what_a_verifier_raises_is_its_reason_and_never_a_zero() -> None:
    found = verdicts(["raise no\n such  luck", "exit", "a", f"raise {'x' * 1000}"], Workers(1))
    assert found[:3] == [Verdict(None, "ValueError: no such luck"), Verdict(None, "SystemExit: 0"), Verdict(1.0)]
    assert found[3].label is None and len(found[3].reason) == 200


def test_what_is_no_finite_number_is_no_label() -> None:
    numbers = ["nan", "inf", "too large for fp32", "too large for a float", "text"]
    for verdict in verdicts([f"give {what}" for what in numbers], Workers(1)):
        assert verdict.label is None and "expected a finite number" in verdict.reason
    assert verdicts(["give none"], Workers(1)) == [Verdict(None)]


def test_numbers_of_other_libraries_are_labels() -> None:
    # PyTorch is imported within the time of one response.
    workers = Workers(1, timeout=100.0)
    found = verdicts([f"give {what}" for what in ("true", "numpy", "torch", "decimal")], workers)
    assert found == [Verdict(1.0), Verdict(1.0), Verdict(0.5), Verdict(0.25)]


def test_reasons_and_answers_are_texts_that_can_be_kept() -> None:
    many, half, speechless = verdicts(["give many words", "give half a character", "speechless"], Workers(1))
    assert many.label == 1 and len(many.reason) == 200 and many.answer == "5"
    assert half == Verdict(1.0, "?", "?")
    assert speechless == Verdict(None, "Speechless: no message")


@pytest.mark.skipif(sys.platform != "linux", reason="no other system limits addresses")
def test_a_worker_without_memory_is_replaced() -> None:
    found = verdicts(["pid", "fill", "pid"], Workers(1, timeout=60.0, memory=1.0))
    assert found[1] == Verdict(None, "out of memory")
    assert found[0].label != found[2].label


def test_workers_stay_for_the_next_responses_and_go_with_their_verifier() -> None:
    verifier = build_verifier("moody", Workers(1))
    first, second = (next(iter(list(verifier.verify([(TASK, "pid")])))).label for _ in range(2))
    assert first == second
    os.kill(int(first or 0), signal.SIGKILL)
    _wait_until_gone(int(first or 0))
    (verdict,) = verifier.verify([(TASK, "pid")])
    assert verdict.label not in (first, None)
    del verifier
    _wait_until_gone(int(verdict.label or 0))


def test_several_may_verify_by_turns() -> None:
    verifier = build_verifier("moody", Workers(1))
    one, other = (verifier.verify((TASK, "a" * place) for place in range(40)) for _ in range(2))
    assert [(first.label, second.label) for first, second in zip(one, other, strict=True)] == [
        (n, n) for n in range(40)
    ]


def test_no_responses_are_no_verdicts() -> None:
    assert verdicts([], Workers(2)) == []


def test_responses_are_read_only_as_far_ahead_as_keeps_the_workers_busy() -> None:
    read = 0

    def endless() -> Iterator[tuple[Task, str]]:
        nonlocal read
        while True:
            read += 1
            yield TASK, "a"

    found = build_verifier("moody", Workers(1)).verify(endless())
    assert next(found).label == 1 and read < 5000
    found.close()  # type: ignore[attr-defined]


def test_a_slow_consumer_does_not_make_responses_late() -> None:
    verifier = build_verifier("moody", Workers(1, timeout=1.0))
    found = verifier.verify((TASK, "a" * place) for place in range(40))
    labels = []
    for place, verdict in enumerate(found):
        labels.append(verdict.label)
        if place % 16 == 0:
            time.sleep(1.2)
    assert labels == list(range(40))


def test_the_recorded_responses_of_a_problem_stay_where_they_are() -> None:
    task = Task("q", "a query", [], responses=[Response("1", "crowd")] * 3)
    assert next(iter(build_verifier("moody", Workers(1)).verify([(task, "crowd")]))).label == 0


def test_workers_end_when_no_more_verdicts_are_requested() -> None:
    found = build_verifier("moody", Workers(1)).verify([(TASK, "pid"), (Task("2", "b", []), "sleep")])
    pid = int(next(found).label or 0)
    found.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_worker_whose_parent_was_killed_ends_itself(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import judging_rules\nfrom features.texts.tasks import Task\n"
        "from features.verification.workers import Workers, build_verifier\n"
        "if __name__ == '__main__':\n"
        "    verifier = build_verifier('moody', Workers(1, timeout=1.0))\n"
        f"    list(verifier.verify([(Task('q', 'q', []), 'touch {tmp_path}/pid')]))\n"
    )
    paths = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths})
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.01)
    worker = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    _wait_until_gone(worker)


def test_settings_are_the_options_the_time_and_the_code_of_ones_own_function() -> None:
    verifier = build_verifier({"name": "moody", "factor": 3}, Workers(2, timeout=7.0))
    assert isinstance(verifier, RuleVerifier) and isinstance(verifier, Verifier)
    code = sha256_of(Path(judging_rules.__file__))
    assert verifier.settings() == {"name": "moody", "factor": 3.0, "timeout": 7.0, "packages": {}, "code": code}
    assert build_verifier("moody", Workers(1, timeout=7.0)).settings() == {**verifier.settings(), "factor": 1.0}
    assert "code" not in build_verifier("exact_match").settings()


def test_a_class_is_built_as_it_is() -> None:
    assert build_verifier("given_label").settings() == {"name": "given_label"}


@pytest.mark.parametrize(("node", "problem"), [
    ("moodie", "features.verifier: 'moodie' is not among the verifiers.\n  Did you mean: moody"),
    ({"name": "moody", "factors": 2}, "features.verifier.factors: no such option of moody.\n  Did you mean: factor"),
])  # fmt: skip
def test_a_wrong_name_or_option_is_an_error(node: object, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_verifier(node)  # type: ignore[arg-type]
    assert str(raised.value).startswith(problem)


def test_workers_that_cannot_begin_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = build_verifier("moody", Workers(1))
    monkeypatch.setattr("features.verification.workers.serve", _ends)
    with pytest.raises(
        ConfigError, match=r"features.verifier: the workers of moody end before they have begun \(status 5"
    ):
        list(verifier.verify([(TASK, "a")]))


def test_workers_that_never_begin_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = build_verifier("moody", Workers(1))
    monkeypatch.setattr("features.verification.workers.serve", _sleeps)
    monkeypatch.setattr("features.verification.workers._BEGINS_WITHIN", 0.2)
    with pytest.raises(ConfigError, match=r"features.verifier: the workers of moody do not begin within 0.2 seconds"):
        list(verifier.verify([(TASK, "a")]))


def _ends(*arguments: object) -> None:
    os._exit(5)


def _breaks_off(connection: Connection, *arguments: object) -> None:
    connection.send(None)
    connection.recv()
    os.write(connection.fileno(), (100).to_bytes(4, "big") + b"less than 100 bytes")


def _sleeps(*arguments: object) -> None:
    time.sleep(60)


def _wait_until_gone(pid: int) -> None:
    while _alive(pid):
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended and that nobody has asked for is still there as a zombie. Its first thread is one as soon
    # as it has ended itself; what the process had open is closed when the last of its threads has.
    states = [_state(thread) for thread in Path(f"/proc/{pid}/task").glob("*/stat")]
    return states != ["Z"] if states else not Path("/proc").is_dir()


def _state(thread: Path) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return thread.read_text().rpartition(")")[2].split()[0]
    return "gone"


def test_control_c_is_left_to_the_parent() -> None:
    found = build_verifier("moody", Workers(1)).verify([(TASK, "pid"), (Task("2", "b", []), "aa")])
    os.kill(int(next(found).label or 0), signal.SIGINT)
    assert next(found).label == 2
