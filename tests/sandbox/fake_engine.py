"""An engine that answers what a test tells it to: HTTP on a Unix socket, for what no real engine does on demand."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import attrs

_VERSION = re.compile(r"^/v[0-9.]+")


@attrs.frozen
class Answer:
    """One answer; `cut` breaks the connection off in the middle of it, `until` holds its end back."""

    status: int = 200
    body: object = attrs.field(factory=dict)
    cut: bool = False
    until: threading.Event | None = None


Handler = Answer | Callable[[], Answer]


@attrs.define
class FakeEngine:
    """Answers by "METHOD /path" without version and query; what it is not told about is a 404."""

    base_url: str
    answers: dict[str, Handler] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)

    def answer(self, method: str, path: str) -> Answer:
        """The answer to a request."""
        asked = f"{method} {_VERSION.sub('', path).partition('?')[0]}"
        self.asked.append(asked)
        given = self.answers.get(asked, Answer(404, {"message": f"no such thing: {asked}"}))
        return given if isinstance(given, Answer) else given()

    def tell(self, answers: Mapping[str, Handler]) -> None:
        """Say what to answer from now on."""
        self.answers.update(answers)


@contextmanager
def fake_engine(path: Path) -> Iterator[FakeEngine]:
    """An engine that knows its version and its host, and nothing else yet."""
    engine = FakeEngine(f"unix://{path}")
    engine.tell(
        {
            "GET /version": Answer(body={"ApiVersion": "1.41", "Version": "20.10.24"}),
            "GET /info": Answer(body={"NCPU": 2, "SecurityOptions": ["name=seccomp"]}),
        }
    )

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = engine.answer(self.command, self.path)
            body = json.dumps(answer.body).encode() + b"\n" if answer.status != 204 else b""
            with suppress(ConnectionError):  # who asked has left
                self._send(answer, body)
            self.close_connection = answer.cut

        def _send(self, answer: Answer, body: bytes) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body) + answer.cut, body) if body else b"")
            if answer.until is not None:
                answer.until.wait()
            self.wfile.write(b"" if answer.cut else b"0\r\n\r\n")

        do_POST = do_GET  # noqa: N815  # the standard library's name
        do_PUT = do_GET  # noqa: N815  # the same
        do_DELETE = do_GET  # noqa: N815  # the same

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the same
            """Say nothing."""

    with _Server(str(path), Requests) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingMixIn, UnixStreamServer):
    # The connections that a client keeps end with the client.
    daemon_threads = True
    # As many as may want to connect at once.
    request_queue_size = 64
