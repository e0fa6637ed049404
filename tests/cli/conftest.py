"""Daemons in threads, and `conversationctl` run in this process as its users run it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from supervisor.cli.conversationctl import conversationctl
from supervisor.conversation.restart import RestartPolicy
from tests.cli.daemons import Daemon, scripted, serving, world
from tests.control.scripted_service import ScriptedService
from tests.world import SETTINGS, World


@attrs.frozen
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the protocol sends
        """Its output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its output as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Ctl = Callable[..., Ran]


def run_ctl(*words: str, env: Mapping[str, str | None] | None = None, stdin: str | None = None) -> Ran:
    """Run `conversationctl` with these words."""
    result = CliRunner().invoke(conversationctl, words, prog_name="conversationctl", env=env, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDRESS", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"CONVERSATIOND_{name}", raising=False)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon[World]]:
    """The real actors over fakes; a failed boot is not tried again."""
    settings = attrs.evolve(SETTINGS, restart=RestartPolicy(max_restarts=0))
    with serving(tmp_path, world(tmp_path, settings)) as running:
        yield running


@pytest.fixture
def ctl(daemon: Daemon[World]) -> Ctl:
    """`conversationctl` with the daemon's address."""

    def run(*words: str, **options: Any) -> Ran:  # noqa: ANN401 - passed on
        return run_ctl("--address", str(daemon.unix), *words, **options)

    return run


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Daemon[ScriptedService]]:
    """A daemon that does what the test says."""
    with serving(tmp_path, scripted) as running:
        yield running


@pytest.fixture
def scripted_ctl(script: Daemon[ScriptedService]) -> Ctl:
    """`conversationctl` with the scripted daemon's address."""

    def run(*words: str, **options: Any) -> Ran:  # noqa: ANN401 - passed on
        return run_ctl("--address", str(script.unix), *words, **options)

    return run
