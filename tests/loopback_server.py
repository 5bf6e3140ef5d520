"""An HTTP server on this machine that records what it is asked and spoils answers when a test wants it to."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FAULTS = ("drop", "lost", "delay", "500", "429", "truncate", "wrong hash")


@dataclass
class Request:
    """A request and, once it was answered, the size of the answer."""

    number: int  # from 0 on
    method: str
    path: str  # without the query
    query: dict[str, list[str]]
    token: str | None
    range: str | None
    body: bytes = b""
    bytes_in: int = 0  # with headers
    bytes_out: int = 0
    fault: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What goes back; `headers` besides Content-Length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Any, status: int = 200, **headers: str) -> Answer:
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


class Refusal(Exception):
    """An error answer; by X-Error-Code the Hub's client tells what it is."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer.json({"error": message}, status, **headers)


class LoopbackServer(ThreadingHTTPServer):
    """Starts with `start()`, ends with `stop()`. What it serves is `answer`, which subclasses write."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.faults: list[tuple[str, Callable[[Request], bool], list[float]]] = []
        self.lock = threading.RLock()
        self.released = threading.Event()  # ends delays
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)

    def fail(self, kind: str, when: int | Callable[[Request], bool] = lambda request: True, times: float = 1) -> None:
        """Spoil the next `times` requests for which `when` is true, or that have this number (counted from `clear`).

        drop: the connection is cut and nothing is done. lost: the request is carried out and the connection cut.
        delay: it is carried out and not answered. truncate: half of the body is sent. stall: the same, and then nothing.
        wrong hash: one bit of a file that goes up or down is another, and hashes in answers are wrong. 500 and 429 are
        answers.
        """
        assert kind in (*FAULTS, "stall"), kind
        condition = when if callable(when) else lambda request: request.number == when
        self.faults.append((kind, condition, [times]))

    def clear(self) -> None:
        """Forget requests and faults, and let delayed requests go."""
        self.released.set()
        self.released = threading.Event()
        self.requests, self.faults = [], []

    @property
    def transferred(self) -> int:
        """Bytes that went in and out since `clear`."""
        return sum(request.bytes_in + request.bytes_out for request in self.requests)

    def record(self, request: Request) -> None:
        """Number a request, and find the fault that it meets."""
        with self.lock:
            request.number = len(self.requests)
            self.requests.append(request)
            for kind, condition, left in self.faults:
                if left[0] > 0 and condition(request):
                    left[0] -= 1
                    request.fault = kind
                    return


class Handler(BaseHTTPRequestHandler):
    """Reads requests, has them answered, and spoils the answers that a fault is set for."""

    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do(self) -> None:
        url, released = urlsplit(self.path), self.server.released
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(-1, self.command, url.path, parse_qs(url.query), token, self.headers.get("Range"))
        request.body = self.read_body()
        request.bytes_in = len(self.raw_requestline) + len(bytes(self.headers)) + len(request.body)
        self.server.record(request)
        fault = request.fault
        if fault == "drop":
            self.close_connection = True
            return
        if fault in ("500", "429"):
            self.send(request, Refusal(int(fault), "trouble", **{"RateLimit": '"api";r=0;t=55'}).answer)
            return
        if fault == "wrong hash" and request.method == "PUT":
            request.body = spoil(request.body)
        answer = self.server.answer(request)
        if fault == "delay":
            released.wait(30)
        if fault in ("lost", "delay"):
            self.close_connection = True
            return
        if fault == "wrong hash":
            answer.headers = {name: with_wrong_hashes(value) for name, value in answer.headers.items()}
            is_text = answer.headers.get("Content-Type") == "application/json"
            answer.body = with_wrong_hashes(answer.body.decode()).encode() if is_text else spoil(answer.body)
        self.send(request, answer, half=fault in ("truncate", "stall"))
        if fault == "stall":
            released.wait(30)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, request: Request, answer: Answer, half: bool = False) -> None:
        """Send an answer, or its head and the first half of its body."""
        body = b"" if self.command == "HEAD" else answer.body
        body = body[: len(body) // 2] if half else body
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        request.bytes_out = sum(map(len, self._headers_buffer)) + len(body)
        self.close_connection = self.close_connection or half
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # a client that has had enough
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def spoil(data: bytes) -> bytes:
    """The same with one bit changed."""
    return data[:-1] + bytes([data[-1] ^ 1]) if data else data


def with_wrong_hashes(text: str) -> str:
    """The same with the last digit of every hash changed."""
    return re.sub(r"\b([0-9a-f]{39}|[0-9a-f]{63})([0-9a-f])\b", lambda m: m[1] + format(int(m[2], 16) ^ 1, "x"), text)
