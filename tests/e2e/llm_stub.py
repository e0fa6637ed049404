"""A stub LLM that speaks OpenAI's chat completions, so that a real agent really works without a model.

It is stateless about conversations: which command comes next is told by the tool answers that the request already
holds. So it serves any number of conversations, and an agent that was killed goes on where its history ends.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any, Final

import attrs
from docker import APIClient

STEPS_FILE: Final = "steps.txt"
API_KEY: Final = "stub-llm-key-3f9a"


def append_line(step: int) -> str:
    """The default command of a step; each differs, since an agent that repeats itself counts as stuck."""
    return f"echo step-{step} >> /workspace/{STEPS_FILE}"


def bridge_gateway(api: APIClient) -> str:
    """The host's address as containers on the default bridge see it."""
    pool = api.inspect_network("bridge")["IPAM"]["Config"][0]
    # Engines do not name the gateway that they chose themselves: it is the first address.
    return str(pool.get("Gateway") or next(ip_network(pool["Subnet"]).hosts()))


@contextmanager
def serve_llm(host: str, steps: int, command: Callable[[int], str] = append_line) -> Iterator["LlmStub"]:
    """Serve a model at `host` that calls the terminal `steps` times and then finishes."""
    stub = LlmStub(steps, command)
    server = ThreadingHTTPServer((host, 0), _handler(stub))
    server.daemon_threads = True
    stub.base_url = f"http://{host}:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.release()
        server.shutdown()
        server.server_close()
        thread.join()


class LlmStub:
    """What a test holds of the stub: a gate for the replies, and what was asked so far."""

    def __init__(self, steps: int, command: Callable[[int], str]) -> None:
        self.base_url = ""
        self._steps = steps
        self._command = command
        self._changed = threading.Condition()
        self._held_from: int | None = None
        self._asked: list[int] = []
        self._replied: list[int] = []

    @property
    def asked(self) -> tuple[int, ...]:
        """The step of every call so far, those whose reply is held included."""
        return tuple(self._asked)

    @property
    def replied(self) -> tuple[int, ...]:
        """The step of every call that was answered."""
        return tuple(self._replied)

    def hold(self, step: int = 0) -> None:
        """Hold the replies of this step and of all after it; let those before it go."""
        self._set_gate(step)

    def release(self) -> None:
        """Let the held replies go, and all that follow."""
        self._set_gate(None)

    def finish(self) -> None:
        """Let the next reply end the work, whatever the step."""
        self._steps = 0

    def _set_gate(self, step: int | None) -> None:
        with self._changed:
            self._held_from = step
            self._changed.notify_all()

    def wait_asked(self, count: int, seconds: float) -> None:
        """Wait in a thread until the stub was asked `count` times.

        Raises:
            TimeoutError: it was not, within `seconds`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._asked) >= count, seconds):
                raise TimeoutError(f"the agent asked its model {len(self._asked)} times in {seconds:g} s, not {count}")

    def request_body(self, text: str = "Work through the steps.") -> dict[str, Any]:
        """The body of the start call of a conversation that uses this model."""
        llm = {"usage_id": "agent", "model": "openai/stub", "api_key": API_KEY, "base_url": self.base_url}
        return {
            "agent_settings": {"llm": llm, "tools": [{"name": "terminal"}]},
            "initial_message": {"role": "user", "content": [{"type": "text", "text": text}], "run": True},
        }

    def answer(self, request: dict[str, Any]) -> "Reply":
        """Answer a request as soon as the gate is open."""
        if not request.get("tools"):
            return Reply(content="A stub conversation")
        step = sum(message.get("role") == "tool" for message in request.get("messages", ()))
        with self._changed:
            self._asked.append(step)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._held_from is None or step < self._held_from)
            self._replied.append(step)
        if step >= self._steps:
            return Reply(tool="finish", arguments={"message": "done"}, call=step)
        arguments = {"command": self._command(step), "security_risk": "LOW", "summary": f"step {step}"}
        return Reply(tool="terminal", arguments=arguments, call=step)


@attrs.frozen
class Reply:
    """One answer of the model: text, or one tool call."""

    content: str | None = None
    tool: str | None = None
    arguments: dict[str, str] = attrs.field(factory=dict)
    call: int = 0

    def message(self) -> dict[str, Any]:
        """The answer as OpenAI's `message`, which is a stream's only `delta`, too."""
        if self.tool is None:
            return {"role": "assistant", "content": self.content}
        function = {"name": self.tool, "arguments": json.dumps(self.arguments)}
        call = {"index": 0, "id": f"call_{self.call}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def completion(self) -> dict[str, Any]:
        """The whole completion."""
        choice = {"index": 0, "message": self.message(), "finish_reason": self._finish_reason}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The completion as a stream."""
        for delta, reason in ((self.message(), None), ({}, self._finish_reason)):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            yield {**self._head("chat.completion.chunk"), "choices": [choice]}

    @property
    def _finish_reason(self) -> str:
        return "stop" if self.tool is None else "tool_calls"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"stub-{self.call}", "object": kind, "created": 0, "model": "stub"}


def _handler(stub: LlmStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection of the agent to its model."""

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            reply = stub.answer(request)
            if request.get("stream"):
                lines = [*(json.dumps(chunk) for chunk in reply.chunks()), "[DONE]"]
                self._send("text/event-stream", "".join(f"data: {line}\n\n" for line in lines).encode())
            else:
                self._send("application/json", json.dumps(reply.completion()).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
            """Say nothing: the test tells what failed."""

        def _send(self, kind: str, body: bytes) -> None:
            try:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                self.close_connection = True  # the agent was killed meanwhile

    return Handler
