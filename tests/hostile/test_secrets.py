"""Secrets stay where they belong: one test goes through whole conversations and then greps everything for them."""

import json
import os
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import docker
import pytest

from tests.daemon_fixtures import make_daemon, raw
from tests.daemon_log import incidents
from tests.daemon_process import DaemonProcess
from tests.engine_host import ENGINE_DIRECTORY
from tests.hostile.argv import watched_command_lines
from tests.hostile.peer import Opcode, Peer, client, request, within
from tests.tiny_image import tiny_image

__all__ = ["make_daemon", "raw"]

ENV, BODY, PROMPT = (f"secret-of-the-{place}-{uuid.uuid4().hex}" for place in ("environment", "request", "prompt"))
"""Nobody else's: whatever has one of these has it from here."""
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
_LARGEST: Final = 16 * 1024**2
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


def test_secrets_are_nowhere_but_where_they_belong(
    daemon: DaemonProcess, raw: docker.APIClient, tmp_path: Path
) -> None:
    """Token, session keys, environment and request bodies: in no log, event, error, argv or file for others.

    The command lines of all the host are looked at all the time, from the first word to the daemon until it has ended.
    """
    began = time.time()
    token = (daemon.state_dir / "token").read_text().strip()
    with watched_command_lines() as argv, client(daemon.socket) as peer, client(daemon.socket) as another:
        authenticate_rightly_and_wrongly(daemon, token)
        witness, caller = Witness(peer), Witness(another)
        live_through_it(witness, raw)
        fail_in_every_way(caller)
        end_and_look_back(witness)
        keys = daemon.session_keys
        working_directory = Path(f"/proc/{daemon.pid}/cwd").resolve()
        witness.ask("conversation.delete", id="c1")
        assert daemon.stop() == 0
    # Two of each conversation: another boot has another key. The journal knows them, and those that nobody asked for.
    assert len(witness.keys) == 4
    assert len(keys) > len(witness.keys)
    assert witness.keys <= keys
    secrets = {token, ENV, BODY, PROMPT, *keys}
    assert found(secrets, witness.heard) == []
    # Who asked may be told why the agent refused it, in the agent's words; what is secret by its name is not in them.
    assert found(secrets - {PROMPT}, caller.heard) == []
    assert any(" ".join(SERVING) in line for line in argv)
    assert found(secrets, argv) == []
    assert found(secrets, [daemon.log.read_text()]) == []
    assert found(secrets, readable_by_others(daemon)) == []
    assert open_to_others(daemon.state_dir, daemon.directory / "exports") == []
    assert found(secrets, files_since(began, Path(tempfile.gettempdir()), but=tmp_path)) == []
    assert found(secrets, files_since(began, working_directory, but=tmp_path)) == []
    assert incidents(daemon.log) == []


def test_watched_command_lines_hold_what_lived_for_a_moment() -> None:
    """Whoever looked only now and then would not see it."""
    with watched_command_lines() as seen:
        for _ in within():
            subprocess.run(["sh", "-c", "sleep 0.03", ENV], check=True)
            if found({ENV}, list(seen)):
                return
    raise AssertionError("it was not seen")


def test_files_since_holds_what_was_left_behind(tmp_path: Path) -> None:
    """However deep it is and whoever may read it, but for what is older, elsewhere or left out."""
    began = time.time()
    for name, text in (("new/deep/file", ENV), ("left-out/file", BODY), ("old", PROMPT)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    os.utime(tmp_path / "old", (began - 100, began - 100))
    assert list(files_since(began, tmp_path, but=tmp_path / "left-out")) == [ENV]


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


def live_through_it(witness: Witness, raw: docker.APIClient) -> None:
    """Everything that a conversation can go through, with all its secrets."""
    witness.ask("events.subscribe", since=0, snapshot=True)
    started = {}
    for conversation in ("c1", "c2"):
        started = witness.ask("conversation.start", id=conversation, spec=SPEC, request=REQUEST, labels={"a": "b"})
        assert started.get("status") == "RUNNING", started
        witness.connect_key(conversation)
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


def files_since(began: float, directory: Path, but: Path) -> Iterator[str]:
    """What is in the files below a directory that were written since a moment, but for our own and the engine's.

    An engine of our own keeps its containers' configs below the directory of temporary files, for root alone.
    """
    for where, below, names in os.walk(directory):
        below[:] = [name for name in below if not _is_ours(Path(where, name), but)]
        for name in names:
            with suppress(OSError):  # it has gone meanwhile
                path = Path(where, name)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_mtime >= began - 1 and status.st_size < _LARGEST:
                    yield path.read_bytes().decode(errors="replace")


def _is_ours(directory: Path, but: Path) -> bool:
    return directory == but or directory.name.startswith(ENGINE_DIRECTORY)


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
