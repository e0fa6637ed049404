"""A stub of the older OpenHands server, for a container that has Python: it is run there by its text alone.

It answers as `openhands/server/routes/` of OpenHands 0.59 do where the driver asks: the same bodies, refusals and limit
of requests, `null` for an unknown conversation, STARTING before RUNNING, and a loop that a known conversation does not
get by itself. Its agent asks a model like that of `llm_stub` and runs what it is told, and everything that it knows is
in its file store. What needs an agent of OpenHands, as condensers, delegates and the socket, is left out.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

Json: TypeAlias = Any

PORT = 3000
IMPORT_SECONDS = 0.3
START_SECONDS = 0.3
CLOSE_SECONDS = 0.3
REQUESTS_A_SECOND = 10

EXPECTED = {
    "CONVERSATION_MANAGER_CLASS": "openhands.server.conversation_manager.standalone_conversation_manager."
    "StandaloneConversationManager",
    "SERVE_FRONTEND": "0",
    "RUNTIME": "local",
    "ALLOW_SET_CONVERSATION_ID": "1",
    "SANDBOX_CLOSE_DELAY": "0",
    "SKIP_DEPENDENCY_CHECK": "1",
    "INITIAL_NUM_WARM_SERVERS": "1",
}
BODY = {
    "conversation_id", "conversation_instructions", "create_microagent", "git_provider", "image_urls",
    "initial_user_msg", "mcp_config", "replay_json", "repository", "selected_branch", "suggested_task",
}  # fmt: skip


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def invalid(kind: str, name: str, given: Json) -> Refused:
    """What FastAPI says of a body that it does not take: it quotes it."""
    return Refused(422, {"detail": [{"type": kind, "loc": ["body", name], "input": given}]})


class Store:
    """The file store, in the workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> Json:
        """What a file holds; None if there is none."""
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, name: str, value: Json) -> None:
        """Write a file at once or not at all."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(value))
        new.rename(path)


class Loop:
    """A conversation that the server has taken up: its events, and its agent at work."""

    def __init__(self, store: Store, name: str, message: str | None) -> None:
        self.status = "STARTING"
        self.closed = threading.Event()
        self._store = store
        self._name = name
        self._lock = threading.Lock()
        self._work: threading.Thread | None = None
        self._command: subprocess.Popen[bytes] | None = None
        self.state("loading")
        threading.Thread(target=self._start, args=[message], daemon=True).start()

    def add(self, source: str, **event: Json) -> None:
        """Write an event."""
        with self._lock:
            number = len(events_of(self._store, self._name))
            self._store.write(f"sessions/{self._name}/events/{number}.json", {"id": number, "source": source, **event})

    def state(self, state: str, reason: str = "") -> None:
        """Tell that the agent's state has changed."""
        extras = {"agent_state": state, "reason": reason}
        self.add("environment", observation="agent_state_changed", content="", extras=extras)

    def say(self, message: str) -> None:
        """Take a message of the user, which makes the agent work."""
        self.add("user", action="message", args={"content": message})
        self.state("running")
        if self._work is None or not self._work.is_alive():
            self._work = threading.Thread(target=self._run, daemon=True)
            self._work.start()

    def close(self) -> None:
        """End the step that runs, and write that it is over."""
        self.closed.set()
        if self._command is not None and self._command.poll() is None:
            os.killpg(self._command.pid, signal.SIGKILL)
        time.sleep(CLOSE_SECONDS)
        self.state("stopped")

    def _start(self, message: str | None) -> None:
        time.sleep(START_SECONDS)
        self.add("agent", action="system", args={})
        self.status = "RUNNING"
        if message:
            self.say(message)
        else:
            self.state("awaiting_user_input")

    def _run(self) -> None:
        try:
            while not self.closed.is_set():
                call = self._ask()
                if self.closed.is_set():
                    return
                if call["name"] == "finish":
                    self.add("agent", action="finish", args=call["arguments"])
                    self.state("finished")
                    return
                self._do(call["arguments"]["command"])
        except Exception as error:  # noqa: BLE001 -- as the real one: whatever fails is the agent's error
            self.state("error", f"{type(error).__name__}: {error}")

    def _ask(self) -> dict[str, Any]:
        settings = self._store.read("settings.json")
        done = [event for event in events_of(self._store, self._name) if event.get("observation") == "run"]
        request = {"model": settings["llm_model"], "tools": [{}], "messages": [{"role": "tool"} for _ in done]}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings['llm_api_key']}"}
        url = f"{settings['llm_base_url']}/chat/completions"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(request).encode(), headers)) as answer:
            function = json.load(answer)["choices"][0]["message"]["tool_calls"][0]["function"]
        return {"name": function["name"], "arguments": json.loads(function["arguments"])}

    def _do(self, command: str) -> None:
        self.add("agent", action="run", args={"command": command})
        self._command = subprocess.Popen(["sh", "-c", command], start_new_session=True)
        code = self._command.wait()
        if not self.closed.is_set():
            self.add("agent", observation="run", content="", extras={"metadata": {"exit_code": code}})


def events_of(store: Store, name: str) -> list[Any]:
    """All events of a conversation, oldest first."""
    files = (store.root / f"sessions/{name}/events").glob("*.json")
    return [json.loads(file.read_text()) for file in sorted(files, key=lambda file: int(file.stem))]


class Server:
    """The routes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loops: dict[str, Loop] = {}
        self._lock = threading.Lock()
        self._asked: list[float] = []

    def slow_down(self) -> None:
        """The limit of requests from one address: the first ones at once, more of them later, too many never."""
        with self._lock:
            now = time.monotonic()
            self._asked = [*(at for at in self._asked if at > now - 1), now]
            asked = len(self._asked)
        if asked > 2 * REQUESTS_A_SECOND:
            raise Refused(429, {"message": "Too many requests"})
        if asked > REQUESTS_A_SECOND:
            time.sleep(1)

    def answer(self, method: str, target: str, key: str | None, body: Json) -> Json:
        """Answer one request."""
        self.slow_down()
        url = urlsplit(target)
        kind, *names = [unquote(part) for part in url.path.removeprefix("/api/").strip("/").split("/")]
        if (method, kind) == ("GET", "alive"):
            return {"status": "ok"}
        if key != os.environ["SESSION_API_KEY"]:
            raise Refused(401, {"detail": "Unauthorized"})
        if kind == "conversations" and names:
            return self._of_conversation(method, names[0], "/".join(names[1:]), dict(parse_qsl(url.query)), body)
        if (method, kind) == ("DELETE", "secrets"):
            return self._forget("/".join(names))
        posts = {
            "settings": self._settings,
            "add-git-providers": self._providers,
            "secrets": self._secret,
            "conversations": self._new,
        }
        if method != "POST" or kind not in posts:
            raise Refused(404, {"detail": "Not Found"})
        return posts[kind](body)

    def _of_conversation(self, method: str, name: str, what: str, query: dict[str, str], body: Json) -> Json:
        answers = {
            "GET ": lambda: self._info(name),
            "GET events": lambda: self._events(name, query),
            "POST events": lambda: self._say(name, body),
            "POST start": lambda: self._start(name, body),
            "POST stop": lambda: self._stop(name),
        }
        if f"{method} {what}" not in answers:
            raise Refused(404, {"detail": "Not Found"})
        return answers[f"{method} {what}"]()

    def _settings(self, body: Json) -> Json:
        if not isinstance(body, dict):
            raise invalid("model_attributes_type", "settings", body)
        if not isinstance(body.get("llm_api_key", ""), str):
            raise invalid("string_type", "llm_api_key", body["llm_api_key"])
        self._store.write("settings.json", body)
        return {"message": "Settings stored"}

    def _providers(self, body: Json) -> Json:
        tokens = body.get("provider_tokens", {})
        if not isinstance(tokens, dict):
            raise invalid("dict_type", "provider_tokens", tokens)
        for name, token in tokens.items():
            if "good" not in token["token"]:
                raise Refused(401, {"error": f"Invalid token. Please make sure it is a valid {name} token."})
        self._store.write("provider_tokens.json", tokens)
        return {"message": "Git providers stored"}

    def _secret(self, body: Json) -> Json:
        if not isinstance(body.get("value"), str):
            raise invalid("string_type", "value", body)
        known = self._store.read("secrets.json") or {}
        if body["name"] in known:
            raise Refused(400, {"message": f"Secret {body['name']} already exists"})
        self._store.write("secrets.json", {**known, body["name"]: body})
        return {"message": "Secret created successfully"}

    def _forget(self, name: str) -> Json:
        known = self._store.read("secrets.json") or {}
        if known.pop(name, None) is None:
            raise Refused(404, {"error": f"Secret with ID {name} not found"})
        self._store.write("secrets.json", known)
        return {"message": "Secret deleted successfully"}

    def _new(self, body: Json) -> Json:
        for name in set(body) - BODY:
            raise invalid("extra_forbidden", name, body[name])
        settings = self._store.read("settings.json")
        name = body["conversation_id"]
        if not self._knows(name):
            self._store.write(f"sessions/{name}/metadata.json", {"selected_repository": body.get("repository")})
        if settings is None:
            message = {"status": "error", "message": "Settings not found", "msg_id": "CONFIGURATION$SETTINGS_NOT_FOUND"}
            raise Refused(400, message)
        if not settings.get("llm_api_key"):
            raise Refused(400, {"status": "error", "msg_id": "STATUS$ERROR_LLM_AUTHENTICATION"})
        return self._take_up(name, body.get("initial_user_msg"))

    def _start(self, name: str, body: Json) -> Json:
        if not isinstance(body, dict):
            raise invalid("missing", "providers_set", body)
        if not self._knows(name):
            raise Refused(404, {"status": "error", "conversation_id": name})
        return self._take_up(name, None)

    def _take_up(self, name: str, message: str | None) -> Json:
        with self._lock:
            if name not in self._loops:
                self._loops[name] = Loop(self._store, name, message)
            return {"status": "ok", "conversation_id": name, "conversation_status": self._loops[name].status}

    def _info(self, name: str) -> Json:
        if not self._knows(name):
            return None
        loop = self._loops.get(name)
        status = "STOPPED" if loop is None else loop.status
        return {"conversation_id": name, "title": name, "status": status, "runtime_status": None, "url": None}

    def _stop(self, name: str) -> Json:
        loop = self._loops.get(name)
        if loop is None:
            return {"status": "ok", "conversation_id": name, "message": "Conversation was not running"}

        def close() -> None:
            loop.close()
            self._loops.pop(name, None)

        threading.Thread(target=close, daemon=True).start()
        return {"status": "ok", "conversation_id": name, "message": "Conversation stopped successfully"}

    def _events(self, name: str, query: dict[str, str]) -> Json:
        limit = int(query.get("limit", 20))
        if not self._knows(name):
            raise Refused(404, {"detail": f"Conversation {name} not found"})
        if not 0 <= limit <= 100:
            raise Refused(400, {"detail": "Invalid limit"})
        end = int(query.get("end_id", sys.maxsize))
        found = [event for event in events_of(self._store, name) if int(query.get("start_id", 0)) <= event["id"] <= end]
        if query.get("reverse") == "true":
            found.reverse()
        return {"events": found[:limit], "has_more": len(found) > limit}

    def _say(self, name: str, body: Json) -> Json:
        if not self._knows(name):
            raise Refused(404, {"detail": f"Conversation {name} not found"})
        if body["action"] != "message":
            raise ValueError(f"no such action: {body}")
        self._loops[name].say(body["args"]["content"])
        return {"success": True}

    def _knows(self, name: str) -> bool:
        return self._store.read(f"sessions/{name}/metadata.json") is not None


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """One connection."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                body = json.loads(text) if text else None
                status, answer = 200, server.answer(self.command, self.path, self.headers["X-Session-API-Key"], body)
            except Refused as refused:
                status, answer = refused.status, refused.body
            except Exception as error:  # noqa: BLE001 -- as FastAPI: a bug is an answer
                status, answer = 500, {"detail": f"{type(error).__name__}: {error}"}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_DELETE = do  # noqa: N815 -- the base class's names

    return Handler


def main() -> None:
    """Serve, if the environment is what a nested server needs."""
    wrong = [name for name, value in EXPECTED.items() if os.environ.get(name) != value]
    workspace = Path(os.environ["WORKSPACE_BASE"])
    store = Path(os.environ["FILE_STORE_PATH"])
    if wrong or not os.environ["SESSION_API_KEY"] or not store.is_relative_to(workspace):
        sys.exit(f"the environment is not that of a nested server: {wrong or 'its places, or its key'}")
    time.sleep(IMPORT_SECONDS)
    ThreadingHTTPServer(("0.0.0.0", PORT), handler(Server(Store(store)))).serve_forever()


if __name__ == "__main__":
    main()
