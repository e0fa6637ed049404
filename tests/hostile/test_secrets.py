"""Secrets stay where they belong: one test goes through whole conversations and then greps everything for them."""

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.daemon_fixtures import make_daemon, raw
from tests.daemon_process import DaemonProcess
from tests.hostile.peer import Opcode, Peer, client, request, within
from tests.hostile.target import incidents
from tests.tiny_image import tiny_image

__all__ = ["make_daemon", "raw"]

ENV, BODY, PROMPT = "secret-of-the-environment", "secret-of-the-request", "secret-of-the-prompt"
REQUEST = {"agent_settings": {"llm": {"api_key": BODY}}, "initial_message": {"content": [{"text": PROMPT}]}}
SPEC: dict[str, object] = {"env": {"API_KEY": ENV}}
IMPOSSIBLE: tuple[tuple[dict[str, object], str], ...] = (
    ({"image": "conversationd-tests/none:1"}, "image_unavailable"),
    ({"command": ["sh", "-c", "exit 127"]}, "sandbox_failed"),
    ({"env": {"API_KEY": ENV, "OTHER": ENV}}, "forbidden"),
)
# Says that it is ready, and refuses every conversation with a quotation of what it was asked, as validators do.
QUOTING_AGENT = b"""#!/bin/sh
read -r method path version
size=0
while read -r name value; do
    name=$(echo "$name" | tr -d '\\r' | tr A-Z a-z)
    [ -n "$name" ] || break
    [ "$name" = content-length: ] && size=$(echo "$value" | tr -d '\\r')
done
if [ "$method" = POST ]; then
    body=$(head -c "$size")
    printf 'HTTP/1.1 422 Unprocessable Entity\\r\\nConnection: close\\r\\n\\r\\n{"detail": [{"input": %s}]}' "$body"
else
    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}'
fi
"""
SERVING = ["nc", "-ll", "-p", "8000", "-e", "/bin/quoting-agent"]


class Witness:
    """A client that keeps the text of all that the daemon ever told it, but for the answer that holds a session key."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.heard: list[str] = []
        self.keys: set[str] = set()

    def ask(self, method: str, **params: object) -> Any:  # noqa: ANN401 - JSON
        """One request and its answer; the events that come before it are kept, too."""
        self._peer.say(request(method, params, method))
        while True:
            received = self._peer.read_frame()
            assert received is not None
            assert received.opcode == Opcode.TEXT
            message = json.loads(received.payload)
            if message.get("id") == method == "conversation.connect" and "result" in message:
                self.keys.add(message["result"]["session_api_key"])
                return message["result"]
            self.heard.append(received.payload.decode())
            if message.get("id") == method:
                return message.get("result", message.get("error"))

    def connect_key(self, conversation: str) -> None:
        """Learn the session key, so that it can be looked for."""
        assert len(self.ask("conversation.connect", id=conversation)["session_api_key"]) > 20


@pytest.fixture
def image(engine_url: str) -> Iterator[str]:
    """An image with the agent that quotes."""
    with tiny_image(engine_url, {"quoting-agent": QUOTING_AGENT}) as name:
        yield name


@pytest.fixture
def daemon(make_daemon: Callable[[str], DaemonProcess], image: str, tmp_path: Path) -> DaemonProcess:
    """A daemon that logs everything, over sandboxes that listen."""
    exports = tmp_path / "daemon0" / "exports"
    daemon = make_daemon(
        f'[sandbox]\nimage = "{image}"\npull = "never"\ncommand = {json.dumps(SERVING)}\nmemory = "64MiB"\n'
        f'env = {{ CONFIG_TOKEN = "{ENV}-configured" }}\n[sandbox.allow]\nenv = ["API_KEY"]\n[agent]\ndriver = "none"\n'
        f'[restart]\nbackoff_initial = "50ms"\n[log]\nlevel = "debug"\n[archive]\nexport_to = "{exports}"\n'
    )
    exports.mkdir()
    before = os.umask(0)
    try:
        daemon.start()
    finally:
        os.umask(before)
    return daemon


def test_secrets_are_nowhere_but_where_they_belong(daemon: DaemonProcess, raw: docker.APIClient) -> None:
    """Token, session keys, environment and request bodies: in no log, event, error, argv or file for others."""
    token = (daemon.state_dir / "token").read_text().strip()
    authenticate_rightly_and_wrongly(daemon, token)
    argv: list[str] = []
    with client(daemon.socket) as peer, client(daemon.socket) as another:
        witness, caller = Witness(peer), Witness(another)
        live_through_it(witness, daemon, raw, argv)
        fail_in_every_way(caller)
        argv += command_lines()
        end_and_look_back(witness)
        keys = daemon.session_keys
        witness.ask("conversation.delete", id="c1")
    # Two of each conversation: another boot has another key. The journal knows them, and those that nobody asked for.
    assert len(witness.keys) == 4
    assert len(keys) > len(witness.keys)
    assert witness.keys <= keys
    secrets = {token, ENV, BODY, PROMPT, *keys}
    assert found(secrets, witness.heard) == []
    # Who asked may be told why the agent refused it, in the agent's words; what is secret by its name is not in them.
    assert found(secrets - {PROMPT}, caller.heard) == []
    assert found(secrets, argv) == []
    assert found(secrets, [daemon.log.read_text()]) == []
    assert found(secrets, readable_by_others(daemon)) == []
    assert open_to_others(daemon.state_dir, daemon.directory / "exports") == []
    assert incidents(daemon.log) == []
    assert daemon.stop() == 0
    assert found(secrets, [daemon.log.read_text()]) == []


def test_sandbox_that_dies_printing_its_environment_tells_no_secret(daemon: DaemonProcess) -> None:
    """The last lines of its output go into errors, events and records; what we put into it does not."""
    with client(daemon.socket) as peer:
        witness = Witness(peer)
        witness.ask("events.subscribe", since=0)
        answer = witness.ask(
            "conversation.start",
            id="teller",
            agent="v1",
            spec={**SPEC, "command": ["sh", "-c", "env; echo the end; exit 127"]},
        )
        assert answer["data"]["code"] == "sandbox_failed"
        assert answer["data"]["log_tail"][-1] == "the end"
        witness.ask("conversation.get", id="teller")
        witness.ask("conversation.history", id="teller")
    assert found({ENV}, witness.heard) == []
    printed = dict(line.split("=", 1) for line in answer["data"]["log_tail"] if "=" in line)
    for name in ("API_KEY", "OH_SECRET_KEY", "OH_SESSION_API_KEYS_0"):
        assert set(printed[name]) == {"*"}


def live_through_it(witness: Witness, daemon: DaemonProcess, raw: docker.APIClient, argv: list[str]) -> None:
    """Everything that a conversation can go through, with all its secrets."""
    witness.ask("events.subscribe", since=0, snapshot=True)
    started = {}
    for conversation in ("c1", "c2"):
        started = witness.ask("conversation.start", id=conversation, spec=SPEC, request=REQUEST, labels={"a": "b"})
        assert started.get("status") == "RUNNING", started
        witness.connect_key(conversation)
    argv += command_lines()
    assert witness.ask("conversation.pause", id="c1")["status"] == "PAUSED"
    assert witness.ask("conversation.resume", id="c1")["status"] == "RUNNING"
    raw.kill(started["sandbox"]["name"])
    now = started
    for _ in within():
        now = witness.ask("conversation.get", id="c2")
        if (now["incarnation"], now["status"]) == (2, "RUNNING"):
            return
    raise AssertionError(now)


def end_and_look_back(witness: Witness) -> None:
    """Stop them, each in its way, start them again, and ask for all that is kept of them."""
    for conversation in ("c1", "c2"):
        witness.ask("conversation.stop", id=conversation, force=conversation == "c1")
        assert witness.ask("conversation.restart", id=conversation)["status"] == "RUNNING"
        witness.connect_key(conversation)
        witness.ask("conversation.stop", id=conversation, force=True)
        assert witness.ask("conversation.archive", id=conversation)["status"] == "ARCHIVED"
    for method in ("conversation.list", "daemon.info", "events.subscribe"):
        witness.ask(method, **({"since": 0, "snapshot": True} if method == "events.subscribe" else {}))
    for conversation in ("c1", "c2", "quoted", "failed0", "failed1"):
        witness.ask("conversation.history", id=conversation, limit=1000)
        witness.ask("conversation.logs", id=conversation)


def fail_in_every_way(witness: Witness) -> None:
    """Starts that cannot be, each with the secrets in it."""
    full: dict[str, object] = {"spec": SPEC, "request": REQUEST}
    refused = witness.ask("conversation.start", id="quoted", agent="v1", **full)
    assert refused["data"]["code"] == "agent_refused", refused
    for number, (spec, code) in enumerate(IMPOSSIBLE):
        with_spec: dict[str, object] = {**full, "id": f"failed{number}", "spec": {**SPEC, **spec}}
        error = witness.ask("conversation.start", **with_spec)
        assert error["data"]["code"] == code, error
    for wrong in (
        {"spec": {"env": {"API_KEY": f"{ENV}\0"}}},
        {"spec": {"env": {"API_KEY": [ENV]}}},
        {"spec": {"env": [ENV]}},
        {"spec": {"env": ENV}},
        {"request": [REQUEST]},
        {"request": BODY},
        {"wait": "false", "request": REQUEST},
        {"idempotency_key": "", "request": REQUEST},
    ):
        assert witness.ask("conversation.start", **wrong)["code"] == -32602, wrong


def authenticate_rightly_and_wrongly(daemon: DaemonProcess, token: str) -> None:
    """In the header and by message, whole and cut."""
    place = ("127.0.0.1", daemon.tcp_port)
    for shown in (token, token[:-1], f"{token}x"):
        with client(place, f"Authorization: Bearer {shown}") as peer:
            peer.say(request("daemon.info"))
            peer.read_frame()
        with client(place) as peer:
            peer.say(request("authenticate", {"token": shown}))
            peer.read_frame()


def command_lines() -> list[str]:
    """The argv of every process of the host, in sandboxes or not."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            # It ended while we looked.
            continue
    return lines


def readable_by_others(daemon: DaemonProcess) -> list[str]:
    """What is in the files of the daemon's that somebody else could read, if they could get there."""
    directories = (daemon.state_dir, daemon.socket.parent, daemon.directory / "exports")
    files = (path for directory in directories for path in directory.rglob("*"))
    return [
        path.read_bytes().decode(errors="replace")
        for path in files
        if path.is_file() and path.stat().st_mode & stat.S_IROTH
    ]


def open_to_others(*directories: Path) -> list[str]:
    """The files below directories that their group or others may do anything with."""
    made = (path for directory in directories for path in directory.rglob("*"))
    return [str(path) for path in made if path.lstat().st_mode & 0o077]


def found(secrets: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The secrets that are in the texts, with a little of what is around them."""
    return [text[max(0, at - 200) : at + 100] for text in texts for secret in secrets if (at := text.find(secret)) >= 0]
