"""The page of a server: what it may load, and, in a real browser, asking, picking and seeing the head change."""

import asyncio
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI
from halls import DOCUMENTS, Scored, ask, hall_of

from serving.feedback.database import FeedbackDatabase
from serving.model_router import ModelRouter, RoutedModel
from serving.reranker import Reranker
from serving.server.app import create_app
from serving.server.hall import Hall
from serving.server.learner import Learner
from serving.server.routes.page import _FILES
from training.pages.rendering import stylesheet

KEY = "a key of sixteen letters or more"
HOSTILE = "<img src=x onerror=\"document.title='hacked'\"> \u202eabc"


def test_the_page_needs_no_key_and_may_load_only_its_own_files(reranker: Reranker) -> None:
    hall = hall_of(reranker, api_key=KEY)
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer = ask(hall_of(reranker, api_key=KEY), lambda client, path=path: client.get(path))
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", answer.text), "no address outside this server"
        assert path != "/page.css" or answer.text.startswith(stylesheet())
    assert ask(hall, lambda client: client.get("/v1/models")).status_code == 401


def test_no_text_becomes_markup() -> None:
    script = (_FILES / "page.js").read_text()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script)
    page = (_FILES / "page.html").read_text()
    assert "style=" not in page and not re.findall(r"\son\w+=", page) and "<script>" not in page
    ids = set(re.findall(r'id="([\w-]+)"', page))
    assert set(re.findall(r'\bat\("([\w-]+)"\)', script)) <= ids
    labelled = set(re.findall(r'for="([\w-]+)"', page))
    assert set(re.findall(r'<(?:select|textarea|input) id="([\w-]+)"', page)) <= labelled


@contextmanager
def served(hall: Hall) -> Iterator[str]:
    """A server in a thread of this process."""

    async def learning(app: FastAPI) -> Any:
        learner = Learner(hall, lambda: ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)))
        if hall.database is not None:
            learner.start()
        yield
        await learner.close()

    server = uvicorn.Server(uvicorn.Config(create_app(hall, learning), "127.0.0.1", 0, log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real Chromium; skips where Playwright or Chromium are not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the extra `browser`")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield browser
        browser.close()


def test_a_person_ranks_picks_and_sees_the_head_change(reranker: Reranker, tmp_path: Path, browser: Any) -> None:
    hall = hall_of(reranker, api_key=KEY, learn_after=5, learn_every=0.2)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    errors: list[str] = []
    with served(hall) as url:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        page.on("request", lambda request: request.url.startswith((url, "data:")) or errors.append(request.url))
        page.goto(url)
        page.get_by_label("This server asks for its API key").fill(KEY)
        page.keyboard.press("Enter")
        # From here on with the keyboard alone.
        page.get_by_label("Query").wait_for()
        page.get_by_label("Query").focus()
        page.keyboard.insert_text("sort")
        page.get_by_label("Candidates, one a line").focus()
        page.keyboard.insert_text("\n".join([*DOCUMENTS[:4], HOSTILE]))
        page.keyboard.press("Control+Enter")
        page.get_by_text("5 candidates, best first.").wait_for()
        assert page.locator("#own-list li").count() == page.locator("#base-list li").count() == 5
        expected = [each.text for each in reranker.rank("sort", [*DOCUMENTS[:4], HOSTILE])]
        assert page.locator("#base-list .text").all_text_contents() == shown_as(expected)
        assert page.locator("#base-list .hidden-letter").count() == 1
        last = expected[-1]
        for number in range(1, 6):
            button = page.locator("#own-list li").filter(has_text=last[:20]).get_by_role("button")
            button.focus()
            page.keyboard.press("Enter")
            page.get_by_text(f"Kept: your pick is number {number} of your feedback.").wait_for()
        page.get_by_text("Version 0 became version 1").wait_for()
        assert "For me: version 1" in page.locator("#own-title").inner_text()
        own = page.locator("#own-list .text").all_text_contents()
        (shown,) = shown_as([last])
        assert own.index(shown) < 4, "it was last, and rose"
        assert page.locator("#base-list .text").all_text_contents() == shown_as(expected)
        take(page, "taught")
        page.get_by_role("button", name="Use version 0").click()
        page.get_by_text("Version 0 is in use.").wait_for()
        assert page.locator("#own-list .text").all_text_contents() == shown_as(expected)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Forget this user").click()
        page.get_by_text("Forgotten: 5 pieces of feedback and 1 of the versions.").wait_for()
        assert page.title() == "Rank and teach" and page.locator("img").count() == 0
    assert errors == [] and hall.database is not None and hall.database.describe("me", {}) == []


def test_a_pick_is_for_the_query_whose_order_is_shown(reranker: Reranker, tmp_path: Path, browser: Any) -> None:
    hall = hall_of(reranker, learn_after=100)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    held: list[Any] = []
    asked: list[str] = []

    def hold(route: Any) -> None:
        asked.append(route.request.post_data_json["query"])
        held.append(route)

    def release() -> None:
        for route in held:
            route.continue_()
        held.clear()

    with served(hall) as url:
        page = opened(browser, url)
        page.get_by_label("Query").fill("sort")
        page.get_by_label("Candidates, one a line").fill("\n".join(DOCUMENTS[:3]))
        page.get_by_role("button", name="Rank", exact=True).click()
        page.get_by_text("3 candidates, best first.").wait_for()
        page.route("**/v1/rerank", hold)
        page.get_by_label("Query").fill("open")
        page.get_by_label("Candidates, one a line").fill("\n".join(DOCUMENTS[1:4]))
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Control+Enter")
        wait_until(page, lambda: len(held) >= 2)
        with page.expect_request("**/v1/feedback") as sent:
            page.locator("#own-list li").filter(has_text=DOCUMENTS[0]).get_by_role("button").click()
        body = sent.value.post_data_json
        assert (body["query"], body["candidates"], body["picked"]) == ("sort", DOCUMENTS[:3], 0)
        # The order after the pick is asked for, and comes after the order of the other query.
        wait_until(page, lambda: len(held) >= 4)
        assert asked == ["open", "open", "sort", "sort"], "the second Ctrl + Enter asked nothing"
        late, held[:] = held[2:], held[:2]
        release()
        page.locator("#own-list").get_by_text(DOCUMENTS[3]).wait_for()
        held[:] = late
        with page.expect_response(lambda answer: "/v1/users/" in answer.url):
            release()
        expected = [each.text for each in reranker.rank("open", DOCUMENTS[1:4])]
        assert page.locator("#own-list .text").all_text_contents() == expected
        assert page.locator("#own-list li.picked").count() == 0


def test_the_page_tells_a_training_only_after_one(reranker: Reranker, tmp_path: Path, browser: Any) -> None:
    hall = hall_of(reranker, learn_after=2)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    last = {"outcome": "kept the present head", "held_out": 1, "base": 1.0, "present": 1.0, "new": 0.5, "created": 7.0}
    after: list[list[dict[str, Any]]] = [
        [{"feedback": 1, "learnt": 0}],
        [
            {"feedback": 2, "learnt": 0},
            {"feedback": 2, "learnt": 0, "is_training": True},
            {"feedback": 2, "learnt": 2, "last_training": last},
        ],
        [{"feedback": 3, "learnt": 2, "last_training": last}],
    ]
    heads = [{"feedback": 0, "learnt": 0}]

    def answer(route: Any) -> None:
        usual = {"model": "tiny", "version": 0, "versions": [], "is_training": False, "last_training": None}
        head = heads.pop(0) if len(heads) > 1 else heads[0]
        route.fulfill(json={"user": "me", "learns_after": 2, "rankers": [usual | head]})

    with served(hall) as url:
        page = opened(browser, url)
        status = page.get_by_role("status")
        page.get_by_label("Query").fill("sort")
        page.get_by_label("Candidates, one a line").fill("\n".join(DOCUMENTS[:3]))
        page.route("**/v1/users/*", answer)
        page.keyboard.press("Control+Enter")
        page.get_by_text("3 candidates, best first.").wait_for()
        for number in (1, 2, 3):
            heads[:] = after[number - 1]
            page.locator("#own-list li").nth(1).get_by_role("button").click()
            page.get_by_text(f"Kept: your pick is number {number} of your feedback.").wait_for()
            if number == 2:
                page.get_by_text(
                    "Your ranker has learnt, and the base ranker stays: nothing better was found."
                ).wait_for()
            else:
                page.wait_for_timeout(1500)
                assert status.inner_text() == f"Kept: your pick is number {number} of your feedback."


def test_a_page_that_is_opened_early_waits_for_the_rankers(reranker: Reranker, browser: Any) -> None:
    hall = hall_of(reranker)
    asked: list[str] = []

    def loading(route: Any) -> None:
        asked.append(route.request.url)
        message = {"error": {"message": "the rankers are not loaded"}}
        if len(asked) < 3:
            route.fulfill(status=503, json=message, headers={"retry-after": "1"})
        else:
            route.continue_()

    with served(hall) as url:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.route("**/v1/models", loading)
        page.goto(url)
        page.get_by_text("The server is loading its rankers").wait_for()
        assert not page.get_by_label("Query").is_visible()
        page.get_by_label("Query").wait_for()
        assert len(asked) == 3 and page.get_by_role("status").inner_text() == ""


def test_a_wrong_key_is_named_and_asked_for_again(reranker: Reranker, browser: Any) -> None:
    with served(hall_of(reranker, api_key=KEY)) as url:
        page = opened(browser, url)
        key = page.get_by_label("This server asks for its API key")
        key.wait_for()
        assert page.get_by_role("status").inner_text() == ""
        key.fill("another key")
        page.keyboard.press("Enter")
        page.get_by_text("The server refuses this API key.").wait_for()
        take(page, "key")
        assert key.is_visible() and not page.get_by_label("Query").is_visible()
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.get_by_label("Query").wait_for()
        assert not key.is_visible() and page.get_by_role("status").inner_text() == ""


def test_what_is_shown_belongs_to_the_user_in_the_form(reranker: Reranker, tmp_path: Path, browser: Any) -> None:
    hall = hall_of(reranker, learn_after=100)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    hall.add_reranker("plain", Scored(lambda asked: [float(len(each)) for each in asked.documents]))
    errors: list[str] = []
    with served(hall) as url:
        page = opened(browser, url)
        page.on("pageerror", lambda error: errors.append(str(error)))
        results, head = page.locator("#results"), page.locator("#head-state")
        page.get_by_label("Query").fill("sort")
        page.get_by_label("Candidates, one a line").fill("\n".join(DOCUMENTS[:3]))
        page.keyboard.press("Control+Enter")
        page.get_by_text("3 candidates, best first.").wait_for()
        page.locator("#own-list li").nth(1).get_by_role("button").click()
        head.get_by_text("1 piece of feedback from me").wait_for()
        page.get_by_label("User").fill("ana")
        assert not results.is_visible() and not head.is_visible(), "they are another user's"
        page.keyboard.press("Control+Enter")
        page.get_by_text("3 candidates, best first.").wait_for()
        assert "For ana" in page.locator("#own-title").inner_text() and page.locator("#own-list li.picked").count() == 0
        page.get_by_label("Query").focus()
        head.get_by_text("Nothing is kept of ana.").wait_for()
        assert results.is_visible(), "they are ana's already"
        # An answer for the user before comes late.
        held: list[Any] = []
        page.route("**/v1/rerank", lambda route: held.append(route))
        page.keyboard.press("Control+Enter")
        wait_until(page, lambda: len(held) == 2)
        page.get_by_label("User").fill("me")
        assert page.get_by_role("status").inner_text() == "" and page.get_by_role("button", name="Rank").is_enabled()
        for route in held:
            with page.expect_response("**/v1/rerank"):
                route.continue_()
        page.keyboard.press("Tab")
        head.get_by_text("1 piece of feedback from me").wait_for()
        assert not results.is_visible()
        page.get_by_label("Ranker", exact=True).select_option("plain")
        assert not page.get_by_label("User").is_visible() and not head.is_visible(), "nobody can teach it"
        page.route("**/v1/users/*", lambda route: route.fulfill(status=503, json={"error": {"message": "no database"}}))
        page.get_by_label("Ranker", exact=True).select_option("tiny")
        page.get_by_text("no database").wait_for()
    assert errors == []


def test_responses_of_a_model_are_ranked_and_the_first_sample_is_named(reranker: Reranker, browser: Any) -> None:
    sent: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        sent.append(route.request.post_data_json)
        given = [{"text": text, "score": 0.0, "index": place} for place, text in enumerate(DOCUMENTS[:3])]
        route.fulfill(json={"choices": [], "ranking": {"candidates": given[::-1]}})

    with served(hall_of(reranker)) as url:
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.set_default_timeout(30_000)
        tiny = {"id": "tiny", "does": "rerank", "learns": False}
        models = [{**tiny, "chats_with": "model"}, {**tiny, "id": "mute"}]
        page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
        page.route("**/v1/chat/completions", answer)
        page.goto(url)
        page.get_by_label("Ranker", exact=True).select_option("mute")
        assert not page.get_by_label("sampled: ask the model").is_visible(), "it has no language model"
        page.get_by_label("Ranker", exact=True).select_option("tiny")
        page.get_by_label("sampled: ask the model").check()
        page.get_by_label("Query").fill("sort")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("3 candidates, best first.").wait_for()
        expected = [each.text for each in reranker.rank("sort", DOCUMENTS[:3])]
        assert page.locator("#own-list .text").all_text_contents() == expected
        assert (
            page.locator("#own-list li").filter(has_text="the first sample").locator(".text").inner_text()
            == DOCUMENTS[0]
        )
        assert not page.locator("#base").is_visible() and not page.locator("#head").is_visible(), "nobody can teach it"
        assert not page.get_by_text("the ranker learns it").is_visible()
        take(page, "chat")
    assert sent == [
        {
            "model": "tiny",
            "ranker": "tiny",
            "messages": [{"role": "user", "content": "sort"}],
            "best_of": 5,
            "return_candidates": True,
        }
    ]


def test_an_empty_response_is_the_last_and_no_ranker_reads_it(reranker: Reranker, tmp_path: Path, browser: Any) -> None:
    hall = hall_of(reranker, learn_after=100)
    hall.keep_feedback(FeedbackDatabase(tmp_path / "feedback.sqlite"))
    sampled = ["", *DOCUMENTS[:2], " \n", DOCUMENTS[2]]
    with served(hall) as url:
        page = browser.new_page()
        page.set_default_timeout(30_000)
        models = [{"id": "tiny", "does": "rerank", "learns": True, "chats_with": "model"}]
        page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
        given = [{"text": text, "score": 0.0, "index": place} for place, text in enumerate(sampled)]
        page.route("**/v1/chat/completions", lambda route: route.fulfill(json={"ranking": {"candidates": given}}))
        page.goto(url)
        page.get_by_label("sampled: ask the model").check()
        page.get_by_label("Query").fill("sort")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("5 candidates, best first.").wait_for()
        expected = [each.text for each in reranker.rank("sort", DOCUMENTS[:3])]
        for order in ("own", "base"):
            assert page.locator(f"#{order}-list .text").all_text_contents() == [*expected, "", " \n"]
            assert page.locator(f"#{order}-list li").filter(has_text="empty, so not scored").count() == 2
        assert page.locator("#own-list button").count() == 3
        page.locator("#own-list li").nth(1).get_by_role("button").click()
        page.get_by_text("Kept: your pick is number 1 of your feedback.").wait_for()
        assert hall.database is not None
        ((_, kept),) = hall.database.feedback("tiny", "me", 1)
        assert kept["candidates"] == DOCUMENTS[:3]
        assert kept["candidates"][kept["labels"].index(1.0)] == expected[1]
        assert page.locator("#own-list li.picked .text").all_text_contents() == [expected[1]]
        take(page, "empty")


def test_a_server_that_only_searches_offers_that_alone(reranker: Reranker, browser: Any) -> None:
    errors: list[str] = []
    with served(hall_of(reranker)) as url:
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        model = {"id": "tiny", "does": "search", "learns": False, "pools": ["own"]}
        page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [model]}))
        results = [{"id": text, "score": 0.5, "document": {"text": text}} for text in DOCUMENTS[:2]]
        page.route("**/v1/search", lambda route: route.fulfill(json={"results": results}))
        page.goto(url)
        page.get_by_label("Query").fill("sort")
        assert (
            not page.get_by_label("Ranker", exact=True).is_visible()
            and not page.get_by_text("what I give").is_visible()
        )
        page.get_by_role("button", name="Search").click()
        page.get_by_text("2 candidates, best first.").wait_for()
        assert page.locator("#own-list .text").all_text_contents() == DOCUMENTS[:2]
        take(page, "search")
    assert errors == []


def test_a_server_that_only_routes_says_which_model_to_ask(reranker: Reranker, browser: Any) -> None:
    models = [RoutedModel("small", DOCUMENTS[0]), RoutedModel("large", DOCUMENTS[1])]
    router = ModelRouter(reranker, models)
    hall = hall_of()
    hall.add_router("guide", router)
    ((best, other),) = router.route(["sort"], [models])
    with served(hall) as url:
        page = opened(browser, url, width=400)
        page.get_by_label("Query").fill("sort")
        assert not page.locator("#who, #modes, #given").filter(visible=True).count()
        page.get_by_role("button", name="Choose").click()
        page.get_by_text("2 candidates, best first.").wait_for()
        shown = page.locator("#own-list .text").all_text_contents()
        assert shown == ["\n".join([best.id, *best.reasons]), other.id] and best.reasons
        assert not page.locator("#base, #own button").filter(visible=True).count()
        take(page, "route")


def test_a_server_without_anything_to_ask_has_no_form(reranker: Reranker, browser: Any) -> None:
    with served(hall_of()) as url:
        page = opened(browser, url)
        page.get_by_text("This server has no ranker that this page can ask.").wait_for()
        take(page, "nothing")
        assert not page.get_by_role("button").filter(visible=True).count()


def opened(browser: Any, url: str, width: int = 1400) -> Any:
    """The page in a new tab."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(30_000)
    page.goto(url)
    return page


def wait_until(page: Any, holds: Callable[[], bool]) -> None:
    """Let the page go on until something holds."""
    for _ in range(1000):
        if holds():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not come to hold")


def shown_as(texts: list[str]) -> list[str]:
    """Texts as the page shows them: letters that reorder others by their numbers."""
    return [text.replace("\u202e", "U+202E") for text in texts]


def take(page: Any, name: str) -> None:
    """Screenshots in both widths and both schemes, to be looked at, if the variable SCREENSHOTS names a folder."""
    if not (folder := os.environ.get("SCREENSHOTS")):
        return
    before = page.viewport_size
    for width in (400, 1400):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=Path(folder) / f"{name}-{width}-{scheme}.png", full_page=True)
    page.set_viewport_size(before)
