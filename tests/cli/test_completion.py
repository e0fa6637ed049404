"""Completion: the scripts, and ids from the running daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.shell_completion import ShellComplete

from supervisor.cli.conversationctl import conversationctl
from tests.cli.conftest import Ctl, run_ctl
from tests.cli.daemons import TOKEN, Daemon
from tests.control.scripted_service import ScriptedService
from tests.world import World


def completed(words: list[str], incomplete: str = "") -> list[str]:
    """What the shell offers after these words."""
    shell = ShellComplete(conversationctl, {}, "conversationctl", "_CONVERSATIONCTL_COMPLETE")
    return [item.value for item in shell.get_completions(words, incomplete)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script(shell: str) -> None:
    """For each shell that is known."""
    ran = run_ctl("completion", shell)
    assert ran.code == 0
    assert "_CONVERSATIONCTL_COMPLETE" in ran.out


def test_commands_and_options_are_completed_without_a_daemon() -> None:
    """From the command line's own definition."""
    assert completed([], "re") == ["restart", "resume"]
    assert "--timeout" in completed(["start"], "--")
    assert completed(["list", "--status"], "run") == ["running"]


def test_ids_are_those_that_the_command_is_possible_for(ctl: Ctl, daemon: Daemon[World]) -> None:
    """A running one can be paused, a stopped one deleted, any one looked at."""
    for name in ("c1", "c2", "d1"):
        ctl("start", name)
    ctl("stop", "c2")
    address = ["--address", str(daemon.unix)]
    assert completed([*address, "pause"]) == ["c1", "d1"]
    assert completed([*address, "pause"], "c") == ["c1"]
    assert completed([*address, "delete"]) == ["c2"]
    assert completed([*address, "restart"]) == ["c1", "c2", "d1"]
    assert completed([*address, "connect"]) == ["c1", "d1"]
    assert completed([*address, "get"]) == ["c1", "c2", "d1"]
    assert completed([*address, "--json", "events", "-f", "c1", "--json"]) == ["c1", "c2", "d1"]


def test_ids_are_completed_over_tcp_with_the_token(
    ctl: Ctl, daemon: Daemon[World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where the command itself takes it."""
    ctl("start", "c1")
    monkeypatch.setenv("CONVERSATIOND_ADDRESS", str(daemon.tcp))
    monkeypatch.setenv("CONVERSATIOND_TOKEN", TOKEN)
    assert completed(["get"]) == ["c1"]
    assert completed(["--token-file", str(tmp_path / "none"), "get"]) == []


def test_nothing_is_completed_and_said_when_nobody_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A completion must never print."""
    assert completed(["--address", f"unix:{tmp_path}/none", "get"]) == []
    assert completed(["--address", "nonsense", "get"]) == []
    assert capsys.readouterr() == ("", "")


def test_nothing_is_completed_when_the_daemon_takes_its_time(
    script: Daemon[ScriptedService], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short patience; the shell must not hang."""
    monkeypatch.setattr("supervisor.cli.completing._PATIENCE", 0.05)
    script.do(lambda: setattr(script.inside, "gate", trio.Event()))
    assert completed(["--address", str(script.unix), "get"]) == []


def test_the_shell_asks_the_program_itself(ctl: Ctl, daemon: Daemon[World]) -> None:
    """As the printed script does."""
    ctl("start", "c1")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CONVERSATIOND_ADDRESS": str(daemon.unix),
        "_CONVERSATIONCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "conversationctl get ",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-c", "from supervisor.cli.conversationctl import main; main()"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "plain,c1\n"


def test_help_and_completion_load_nothing_heavy() -> None:
    """The daemon's libraries, Trio and rich are not what a person waits for."""
    heavy = {"trio", "rich", "cattrs", "docker", "structlog", "supervisor.control.client", "supervisor.config"}
    program = (
        "import sys\n"
        "from supervisor.cli.conversationctl import conversationctl\n"
        "conversationctl(['--help'], standalone_mode=False)\n"
        f"print(sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"


def test_a_command_loads_no_library_of_the_daemon() -> None:
    """No docker, no structlog, no config."""
    heavy = {"docker", "requests", "httpx2", "structlog", "supervisor.config", "tomli"}
    program = f"import sys, supervisor.cli.performing; print(sorted(set(sys.modules) & {heavy!r}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
