"""What a caller may call its conversations, followed to wherever a name could end up: an engine, files, a terminal."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import docker
import pytest

from tests.cli.programs import Program, on_terminal, piped
from tests.daemon_fixtures import make_daemon, owned, raw
from tests.daemon_log import incidents
from tests.daemon_process import DaemonProcess
from tests.hostile.peer import client, within
from tests.hostile.target import Target
from tests.hostile.test_names import HOSTILE, tree

__all__ = ["make_daemon", "raw"]

MARK: Final = "pwned"
"""Is in every hostile text here, and nowhere else."""

DRIVING: Final = (
    "\x1b]0;{}\x07",  # sets the title
    "\x1b]52;c;{}\x07",  # fills the clipboard
    "\x1b]8;;http://evil.example\x07{}\x1b]8;;\x07",  # a link
    "\x1bP{}\x1b\\",
    "\x1b[2J\x1b[H{}",
    "\x1b[31m{}",
    "\x9b2J{}",
    "\x9d0;{}\x9c",
    "\r{}",
    "\x08\x08{}",
    "\n{}",
    "\x0b{}",
    "\x0e{}",
    "\x7f{}",
    "\u202e{}",
    "\u2066{}",
    "\u2028{}",
    "[red]{}[/red]",
)
"""What terminals, and libraries that draw on them, would act on."""

TEXTS: Final = (
    *(f"{text}{MARK}" for text in HOSTILE if "\0" not in text and len(text) < 100),
    *(text.format(MARK) for text in DRIVING),
)
LABELS: Final = {text: text for text in TEXTS}

ALIKE: Final = ("x", "X", "x-1", "x-1-1", "x_1", "0", "nul", "null", "x" * 64)
"""Ids that are legal, and one another's names with something after them, or names of something elsewhere."""

STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
DRIVES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
CONFIG: Final = """[sandbox]
image = "{image}"
pull = "never"
command = ["sleep", "1000"]
port = 0
memory = "64MiB"
[agent]
driver = "none"
[restart]
mode = "never"
[log]
level = "debug"
format = "{log}"
[archive]
export_to = "{exports}"
[alerts]
command = ["/bin/sh", "-c", "cat >> {taken}"]
"""


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """What the command of the alerts was told."""
    return tmp_path / "taken"


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Where archives go."""
    directory = tmp_path / "exports"
    directory.mkdir()
    return directory


@pytest.fixture
def start_daemon(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str, taken: Path, exports: Path
) -> Callable[[str], DaemonProcess]:
    """Starts a daemon over the real engine, which logs everything in a format and tells its alerts to a command."""

    def start(log: str) -> DaemonProcess:
        daemon = make_daemon(CONFIG.format(image=tiny_image, log=log, exports=exports, taken=taken))
        daemon.start()
        return daemon

    return start


@pytest.fixture
def labelled(willing_target: Target) -> Iterator[str]:
    """A conversation that has every hostile label, and an image that is no better."""
    with client(willing_target.unix) as peer:
        spec = {"image": f"image:{TEXTS[-len(DRIVING)]}"}
        answer = peer.ask("conversation.start", {"id": "labelled", "labels": LABELS, "spec": spec})
        assert answer["result"]["labels"] == LABELS
        yield "labelled"
        peer.ask("conversation.stop", {"id": "labelled", "force": True})
        peer.ask("conversation.delete", {"id": "labelled"})


def test_hostile_labels_go_nowhere_but_to_who_asks(
    start_daemon: Callable[[str], DaemonProcess], raw: docker.APIClient, taken: Path, exports: Path
) -> None:
    """Not to the container, its volume, the log, an event, an alert, an export's name, or a file of their own."""
    daemon = start_daemon("json")
    working = Path(f"/proc/{daemon.pid}/cwd").resolve()
    with client(daemon.socket) as peer:
        before = tree(daemon.directory)
        started = peer.ask("conversation.start", {"id": "c1", "labels": LABELS})["result"]
        assert started["labels"] == LABELS
        made = made_for(raw, daemon, started["sandbox"]["name"])
        failing = {"id": "c2", "labels": LABELS, "spec": {"command": ["sh", "-c", "exit 3"], "port": 8000}}
        assert peer.ask("conversation.start", failing)["error"]["data"]["code"] == "sandbox_failed"
        notice = first_line(taken)
        peer.ask("conversation.stop", {"id": "c1", "force": True})
        assert peer.ask("conversation.archive", {"id": "c1"})["result"]["status"] == "ARCHIVED"
        events = [peer.ask("conversation.history", {"id": one, "limit": 1000})["result"] for one in ("c1", "c2")]
        assert peer.ask("conversation.list", {"labels": LABELS})["result"]["items"][0]["labels"] == LABELS
    assert json.loads(notice)["data"]["conversation"] == "c2"
    told = [json.dumps(made), notice, json.dumps(events), daemon.log.read_text()]
    assert [text for text in told if MARK in text] == []
    assert {path.name for path in exports.iterdir()} == {"c1.tar"}
    assert tree(daemon.directory) <= before
    assert [path for path in (working / MARK, Path("/tmp", MARK), Path(MARK)) if path.exists()] == []
    assert incidents(daemon.log) == []


def made_for(raw: docker.APIClient, daemon: DaemonProcess, name: str) -> list[Any]:
    """All that the engine knows of a sandbox and its volume, whose labels are ours and no more."""
    container = raw.inspect_container(name)
    volume = raw.inspect_volume(container["Mounts"][0]["Name"])
    for labels in (container["Config"]["Labels"], volume["Labels"]):
        assert all(key.startswith("io.conversationd.") for key in labels), labels
    assert container["Name"] == f"/conversationd-{daemon.instance[:8]}-c1-1"
    assert volume["Name"] == f"conversationd-{daemon.instance[:8]}-c1"
    return [container, volume]


def first_line(file: Path) -> str:
    """Wait for a file's first line."""
    for _ in within():
        if file.exists() and "\n" in (text := file.read_text()):
            return text.splitlines()[0]
    raise AssertionError(f"nothing came to {file}")


@pytest.mark.parametrize("log", ["json", "console"])
def test_hostile_words_of_an_error_are_one_harmless_line(
    start_daemon: Callable[[str], DaemonProcess], taken: Path, log: str
) -> None:
    """What an error has to quote reaches the log and the alert escaped, in the line that it belongs to."""
    images = [text.format(MARK) for text in DRIVING if len(text.split()) == 1 and text.strip() == text]
    daemon = start_daemon(log)
    with client(daemon.socket) as peer:
        for number, image in enumerate(images):
            error = peer.ask("conversation.start", {"id": f"c{number}", "spec": {"image": image}})["error"]
            assert error["data"]["code"] == "image_unavailable", error
            assert MARK in error["message"]
    for _ in within():
        if taken.exists() and taken.read_text().count("\n") == len(images):
            break
    notices = taken.read_text().splitlines()
    assert [MARK in json.loads(notice)["data"]["message"] for notice in notices] == [True] * len(images)
    logged = daemon.log.read_text()
    assert logged.count("alert.raised") == len(images)
    for line in (*logged.split("\n"), *notices):
        assert not DRIVES.search(line), line


@pytest.mark.parametrize("run", [on_terminal, piped])
@pytest.mark.parametrize(
    "words",
    [
        ("get", "labelled"),
        ("get", "labelled", "--json"),
        ("list",),
        ("list", "--label", f"{TEXTS[-1]}={TEXTS[-1]}"),
        ("history", "labelled"),
        ("stop", "labelled", "--force"),
    ],
    ids=" ".join,
)
def test_hostile_labels_drive_no_terminal(
    willing_target: Target, labelled: str, words: tuple[str, ...], run: Callable[..., Any]
) -> None:
    """What shows a conversation prints lines and colours of its own, and a label's control characters as escapes."""
    wide = {"width": 2000} if run is on_terminal else {}
    with run("--address", f"unix:{willing_target.unix}", *words, **wide) as program:
        assert isinstance(program, Program)
        assert program.finish() == 0, program.screen
    assert labelled in program.screen
    assert f"\x1b[31m{MARK}" not in program.screen
    shown = STYLE.sub("", program.screen.replace("\r\n", "\n"))
    assert not DRIVES.search(shown), shown
    if words == ("get", "labelled"):
        rows = [line for line in shown.splitlines() if line.startswith("label ")]
        assert len(rows) == len(LABELS)
        assert f"\\x1b]0;{MARK}\\x07=\\x1b]0;{MARK}\\x07" in shown
        assert f"[red]{MARK}[/red]" in shown


def test_hostile_image_drives_no_board(willing_target: Target, labelled: str) -> None:
    """The board of `watch` draws with escapes of its own, and shows those in an image's name as text."""
    with on_terminal("--address", f"unix:{willing_target.unix}", "watch", width=400, height=200) as program:
        program.until(f"image:\\x1b]0;{MARK}\\x07")
        program.press_ctrl_c()
        program.finish()
    assert labelled in program.screen
    assert "\x1b]" not in program.screen


def test_ids_that_are_alike_are_kept_apart(
    start_daemon: Callable[[str], DaemonProcess], raw: docker.APIClient, exports: Path
) -> None:
    """Each has a container, a volume and an export of its own, and what is done to one is done to no other."""
    daemon = start_daemon("json")
    with client(daemon.socket) as peer:
        started = {name: peer.ask("conversation.start", {"id": name})["result"]["sandbox"]["name"] for name in ALIKE}
        rows = {row["Names"][0].removeprefix("/"): row for row in owned(raw, daemon)}
        assert rows.keys() == set(started.values())
        volumes = {name: volume_of(rows[container]) for name, container in started.items()}
        assert len(set(volumes.values())) == len(ALIKE)
        for done, name in enumerate(ALIKE, 1):
            peer.ask("conversation.stop", {"id": name, "force": True})
            assert peer.ask("conversation.archive", {"id": name})["result"]["status"] == "ARCHIVED"
            assert peer.ask("conversation.delete", {"id": name})["result"] == {}
            left = {row["Names"][0].removeprefix("/") for row in owned(raw, daemon) if row["State"] == "running"}
            assert left == {started[other] for other in ALIKE[done:]}
            there = {volume["Name"] for volume in raw.volumes()["Volumes"] or ()}
            assert there & set(volumes.values()) == {volumes[other] for other in ALIKE[done:]}
    assert {path.name for path in exports.iterdir()} == {f"{name}.tar" for name in ALIKE}


def volume_of(row: Any) -> str:  # noqa: ANN401 - JSON
    """The name of the volume of a container in the engine's list."""
    (name,) = [mount["Name"] for mount in row["Mounts"] if mount["Type"] == "volume"]
    return str(name)
