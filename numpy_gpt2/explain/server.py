"""The live page: a server on this computer runs the model for the page, `--serve`.

The address that the command prints contains a secret. GET of this address returns the page. The page then sends POST
requests, with a JSON object, to addresses below it:

    tokens    {"model", "prompt"} -> the last tokens of the prompt, as ids and texts, and the number of all tokens
    explain   {"model", "prompt", "taken", "target", "second", "interventions"} -> JSON objects, one a line: first
              everything that one forward pass gives, then the arrays of `later_arrays` and those of the second prompt.
              `taken` are token ids after the prompt, `target` an id or null, `second` a text or null.
    trace     the same fields -> the rows of `trace_patching`, one a line
    ablation, gradients
              the same fields -> {"done", "of"} while parts are removed, or backward passes run; then the arrays

Nobody else gets in. The server listens on 127.0.0.1 only. Each request needs the secret. Its Host must be the server's
(a name that an attacker's DNS server resolves to 127.0.0.1 is another host), and its Origin, if it has one, too (pages
of other sites cannot send requests). No part of a request is ever the name of a file: a model is chosen from a list.
"""

from __future__ import annotations

import io
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from ..checkpoint import Model
from ..console import print_stderr
from .answers import (
    Models,
    RequestError,
    ablation_parts,
    explanation_parts,
    gradient_parts,
    token_part,
    trace_parts,
)
from .interventions import BLOCK_VECTORS, HEAD_VECTORS
from .page import SCRIPTS, asset, filled, page_script
from .turns import FairLock

MAX_BODY = 100_000  # bytes of a request
MAX_CONNECTIONS = 64  # at once
MAX_INTERVENTIONS = 100
SECONDS = 10  # for a client to send its request, and again to receive the answer
LIVE_SCRIPTS = ("connection", "input", "target", "interventions", "second", "tracing", "demand", "live")
POLICY = "; connect-src 'self'"
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",  # the page has the rest
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# The fields of a request: whether a value is accepted, and this in words.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda x: isinstance(x, str), "the name of a model"),
    "prompt": (lambda x: isinstance(x, str), "a text"),
    "taken": (lambda x: isinstance(x, list) and all(map(is_id, x)), "a list of token ids"),
    "target": (lambda x: x is None or is_id(x), "a token id or null"),
    "second": (lambda x: x is None or isinstance(x, str), "a text or null"),
    "interventions": (lambda x: isinstance(x, list) and len(x) <= MAX_INTERVENTIONS, "a list of 100 objects at most"),
}
DEFAULTS: dict[str, Any] = {"taken": [], "target": None, "second": None, "interventions": []}
QUESTION = ("model", "prompt", "taken", "target", "second", "interventions")
ANSWERS = {
    "explain": explanation_parts,
    "trace": trace_parts,
    "ablation": ablation_parts,
    "gradients": gradient_parts,
}


class Server(ThreadingHTTPServer):
    """The server. `address` is the page's. Raises OSError if the port is in use; port 0 takes any free port."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, model: Model, dtype: str, prompt: str, max_tokens: int, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise OSError(f"port {port} cannot be used ({error}); choose another with --port") from None
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.folder = f"/{secrets.token_urlsafe()}/"
        self.address = f"http://{self.host}{self.folder}"
        self.models = Models(model, dtype, max_tokens)
        self.page = live_page(
            {
                "models": [*self.models.folders],
                "model": model.tokenizer.name,
                "prompt": prompt,
                "vectors": BLOCK_VECTORS,
                "head_vectors": HEAD_VECTORS,
            }
        ).encode()
        self.computing = FairLock()  # one forward pass at a time
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's would ask DNS for a name of this computer

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is no error. Others are answered, see `Handler.answer_request`."""


class Handler(BaseHTTPRequestHandler):
    """One connection, with one request."""

    server: Server
    server_version, sys_version = "numpy_gpt2", ""

    def setup(self) -> None:
        super().setup()
        self.started = False
        self.rfile = io.BufferedReader(Incoming(self.connection))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: the address contains the secret."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer an error that http.server has found."""
        self.answer(HTTPStatus(code), {"error": message or HTTPStatus(code).description})

    def do_GET(self) -> None:
        self.answer_request({"": self.send_page})

    def do_POST(self) -> None:
        self.answer_request({"tokens": self.send_tokens} | {name: partial(self.send_parts, name) for name in ANSWERS})

    def answer_request(self, actions: dict[str, Callable[[], None]]) -> None:
        """Run the action of this address, or say what is wrong. Nothing that goes wrong ends the server."""
        try:
            self.check_sender()
            name = self.path.removeprefix(self.server.folder)
            if name not in actions:
                raise RequestError(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            actions[name]()
        except RequestError as error:
            self.answer(error.status, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            pass  # the client has left, or is too slow
        except (ValueError, OSError, MemoryError) as error:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": str(error) or "out of memory"})
        except Exception as error:
            print_stderr(f"error: {type(error).__name__}: {error}")
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})

    def check_sender(self) -> None:
        """Raise RequestError unless the request comes from the page, or from someone who knows its address."""
        host, path = self.server.host, self.path.encode(errors="replace")
        if self.headers.get_all("Host") != [host]:
            raise RequestError(HTTPStatus.FORBIDDEN, f"the request's Host must be {host}")
        if self.headers.get_all("Origin", [f"http://{host}"]) != [f"http://{host}"]:
            raise RequestError(HTTPStatus.FORBIDDEN, f"the request's Origin must be http://{host}")
        folder = self.server.folder.encode()
        if not secrets.compare_digest(path[: len(folder)], folder):
            raise RequestError(HTTPStatus.FORBIDDEN, "the address must be the one that the command has printed")

    def read_request(self, *names: str) -> dict[str, Any]:
        """The fields of the JSON object that the client has sent. Raises RequestError if one is missing or wrong."""
        if self.headers.get_content_type() != "application/json":
            raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the request must be application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RequestError(HTTPStatus.LENGTH_REQUIRED, "the request must have a Content-Length")
        if len(length) > 18 or int(length) > MAX_BODY:
            size = f"the request has {length[:18]} bytes; it must have {MAX_BODY:,} at most"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, size)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client has left")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the request is not JSON: {error}") from None
        if not isinstance(request, dict):
            raise RequestError(HTTPStatus.BAD_REQUEST, "the request is not a JSON object")
        if unknown := request.keys() - names:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"{min(unknown)!r:.60} is not a field; the fields are {names}")
        request = {name: DEFAULTS.get(name) for name in names} | request
        for name, value in request.items():
            accepts, wanted = FIELDS[name]
            if not accepts(value):
                raise RequestError(HTTPStatus.BAD_REQUEST, f"{name} is {value!r:.60}; it must be {wanted}")
        return request

    def send_page(self) -> None:
        self.send_start(HTTPStatus.OK, "text/html; charset=utf-8")
        self.wfile.write(self.server.page)

    def send_tokens(self) -> None:
        self.answer(HTTPStatus.OK, token_part(self.server.models, self.read_request("model", "prompt")))

    def send_parts(self, name: str) -> None:
        """Send the parts of an answer as they are computed, as long as the client listens.

        The page breaks off a request when it sends a newer one, so only the newest one is computed.
        """
        parts = ANSWERS[name](self.server.models, self.read_request(*QUESTION))
        while True:
            with self.server.computing:
                if self.client_has_left() or (part := next(parts, None)) is None:
                    return
            if part:
                if not self.started:
                    self.send_start(HTTPStatus.OK, "application/x-ndjson")
                self.wfile.write(line(part))

    def client_has_left(self) -> bool:
        """Whether the connection is closed."""
        try:
            self.connection.settimeout(0)
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(SECONDS)

    def answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        """Send a JSON object, if the client still listens. After the first part of an answer, it is the last part."""
        with suppress(OSError):
            if not self.started:
                self.send_start(status, "application/json")
            self.wfile.write(line(content))
            if status >= 400:
                self.discard_rest()

    def discard_rest(self) -> None:
        """Read what the client is still sending. If the connection were closed before, the answer could be lost."""
        self.connection.shutdown(socket.SHUT_WR)
        while self.rfile.read1(1 << 16):
            pass

    def send_start(self, status: HTTPStatus, content_type: str) -> None:
        """Send the status and the headers."""
        self.started = True
        self.connection.settimeout(SECONDS)
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()


class Incoming(io.RawIOBase):
    """What a client sends. Raises TimeoutError SECONDS after the start, however slowly the bytes arrive."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.end = connection, time.monotonic() + SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connection.settimeout(max(1e-3, self.end - time.monotonic()))
        return self.connection.recv_into(buffer)


def is_id(x: object) -> bool:
    """Whether a value from JSON has the form of a token id. A bool is an int in Python, but not in JSON."""
    return type(x) is int and 0 <= x < 1 << 31


def line(content: dict[str, Any]) -> bytes:
    """A JSON object on one line."""
    return json.dumps(content).encode() + b"\n"


def live_page(settings: dict[str, Any]) -> str:
    """The page without data, with the controls of a live page. `settings` are its models and what it starts with."""
    return filled(
        settings,
        page_script([*SCRIPTS, "gradients", *(f"live/{name}" for name in LIVE_SCRIPTS)]),
        asset("live.css"),
        POLICY,
        CONTROLS=asset("live.html"),
        CHANGES=asset("changes.html"),
        TARGET=asset("target.html"),
        GRADIENTS=asset("gradients.html"),
        SECOND=asset("second.html"),
        FOOTER="With --serve, the page needs the command that made it.",
    )
