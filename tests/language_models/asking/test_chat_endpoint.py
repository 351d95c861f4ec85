"""A request that nobody wants any more ends, whatever the server does."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from language_models.asking.chat_endpoint import ChatEndpoint, RequestFailed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
FAILED = HEAD.replace(b"200 OK", b"500 Internal Server Error")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


@pytest.mark.parametrize("answer", [b"", HEAD[:20], HEAD, HEAD + b'{"choices"', FAILED, FAILED + b'{"error"'])
def test_a_request_that_is_stopped_waits_for_no_answer_and_tells_the_server(
    server: socket.socket, answer: bytes
) -> None:
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout=600.0)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(endpoint.choices, "a", [{"role": "user", "content": "b"}], stop)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(1 << 16)
            connection.sendall(answer)
            stop.set()
            with suppress(ConnectionResetError):
                while connection.recv(1 << 16):  # until the client has closed it
                    pass
            with pytest.raises(RequestFailed, match="stopped"):
                asking.result(30)


def test_a_request_that_is_not_stopped_leaves_no_thread(server: socket.socket) -> None:
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout=600.0)
    body = b'{"choices": [{"message": {"content": "yes"}}]}'
    before = threading.active_count()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(endpoint.choices, "a", [{"role": "user", "content": "b"}], threading.Event())
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(HEAD.replace(b"1000", str(len(body)).encode()) + body)
            assert [choice.text for choice in asking.result(30)] == ["yes"]
    assert threading.active_count() <= before
