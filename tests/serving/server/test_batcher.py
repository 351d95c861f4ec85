"""Questions of several requests are answered together, in order, with limits on waiting."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from serving.server.batcher import Batcher
from serving.server.errors import RequestError

USUAL: dict[str, Any] = {"largest": 4, "seconds": 0.001, "room": 8, "timeout": 20.0}


class Doubler:
    """Doubles numbers, once it is let; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.begun.set()
        assert self.go.wait(20)
        if 13 in numbers:
            raise ValueError("13 is refused")
        return [2 * number for number in numbers]


def test_what_waits_is_answered_together_up_to_the_largest_batch() -> None:
    work = Doubler()

    async def run() -> list[int]:
        batcher = Batcher(work, **USUAL)
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.to_thread(work.begun.wait)
        rest = [asyncio.create_task(batcher.ask(number)) for number in range(1, 8)]
        await asyncio.sleep(0)
        assert batcher.size == 7
        work.go.set()
        answers = await asyncio.gather(first, *rest)
        await batcher.close()
        return answers

    assert asyncio.run(run()) == [2 * number for number in range(8)]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_question_that_fails_fails_alone() -> None:
    work = Doubler()
    work.go.set()

    async def run() -> list[Any]:
        batcher = Batcher(work, **USUAL)
        answers = await asyncio.gather(*(batcher.ask(number) for number in (1, 13, 2)), return_exceptions=True)
        await batcher.close()
        return answers

    one, refused, two = asyncio.run(run())
    assert (one, two) == (2, 4) and isinstance(refused, ValueError)
    assert work.batches == [[1, 13, 2], [1], [13], [2]]


def test_of_a_batch_that_fails_no_question_that_was_given_up_is_repeated() -> None:
    work = Doubler()

    async def run() -> list[Any]:
        batcher = Batcher(work, **USUAL)
        asked = [asyncio.create_task(batcher.ask(number)) for number in (1, 13, 2)]
        await asyncio.to_thread(work.begun.wait)
        asked[0].cancel()
        await asyncio.sleep(0)
        work.go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close()
        return answers

    given_up, refused, two = asyncio.run(run())
    assert isinstance(given_up, asyncio.CancelledError) and isinstance(refused, ValueError) and two == 4
    assert work.batches == [[1, 13, 2], [13], [2]]


def test_an_exception_as_an_answer_is_raised_for_its_question_alone() -> None:
    async def run() -> list[Any]:
        batcher = Batcher(lambda numbers: [n or ValueError("0") for n in numbers], **USUAL)
        answers = await asyncio.gather(*(batcher.ask(number) for number in (1, 0, 2)), return_exceptions=True)
        await batcher.close()
        return answers

    one, refused, two = asyncio.run(run())
    assert (one, two) == (1, 2) and isinstance(refused, ValueError)


def test_more_than_there_is_room_for_is_refused_at_once_and_told_when_to_come_again() -> None:
    work = Doubler()

    async def run() -> RequestError:
        batcher = Batcher(work, **USUAL)
        waiting = [asyncio.create_task(batcher.ask(0))]
        await asyncio.to_thread(work.begun.wait)
        waiting += [asyncio.create_task(batcher.ask(number, size=4)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as error:
            await batcher.ask(3)
        work.go.set()
        assert await asyncio.gather(*waiting) == [0, 2, 4]
        assert await batcher.ask(100, size=99) == 200, "what is larger than the room is let in when nothing waits"
        await batcher.close()
        return error.value

    refusal = asyncio.run(run())
    assert refusal.status == 429 and int(refusal.headers["Retry-After"]) >= 1


def test_a_question_that_is_given_up_is_not_worked_on() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = Batcher(work, **{**USUAL, "timeout": 0.05})
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.to_thread(work.begun.wait)
        with pytest.raises(RequestError, match=r"no answer within 0\.05 s") as error:
            await batcher.ask(1)
        assert error.value.status == 504
        with pytest.raises(RequestError):
            await first
        work.go.set()
        await batcher.close()

    asyncio.run(run())
    assert work.batches == [[0]]


def test_a_question_that_is_given_up_leaves_its_room_to_others() -> None:
    work = Doubler()

    async def run() -> list[int]:
        batcher = Batcher(work, **{**USUAL, "seconds": 0.0})
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.to_thread(work.begun.wait)
        given_up = asyncio.create_task(batcher.ask(1, size=8))
        await asyncio.sleep(0)
        assert batcher.size == 8
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert batcher.size == 0
        other = asyncio.create_task(batcher.ask(2, size=8))
        await asyncio.sleep(0)
        work.go.set()
        answers = [await first, await other]
        assert batcher.size == 0
        await batcher.close()
        return answers

    assert asyncio.run(run()) == [0, 4]
    assert work.batches == [[0], [2]]


def test_a_batch_that_fails_beside_its_work_does_not_end_the_batcher(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[Any]:
        batcher = Batcher(lambda numbers: [] if 13 in numbers else list(numbers), **{**USUAL, "timeout": 5.0})
        answers = [(await asyncio.gather(batcher.ask(number), return_exceptions=True))[0] for number in (13, 2)]
        await batcher.close()
        return answers

    failed, two = asyncio.run(run())
    assert isinstance(failed, RequestError) and failed.status == 500 and two == 2
    assert "a batch failed" in caplog.text and "shorter" in caplog.text


def test_a_server_that_ends_answers_what_waits_and_takes_no_more() -> None:
    work = Doubler()

    async def run() -> list[int]:
        batcher = Batcher(work, **USUAL)
        waiting = [asyncio.create_task(batcher.ask(number)) for number in range(6)]
        await asyncio.to_thread(work.begun.wait)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as error:
            await batcher.ask(9)
        assert error.value.status == 503
        work.go.set()
        await closing
        return [task.result() for task in waiting]

    before = threading.active_count()
    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]
    assert threading.active_count() <= before
