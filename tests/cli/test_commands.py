"""The commands, end to end: the real control server and actors over fakes."""

import io
import json
import sys
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest
import trio

from supervisor.cli.calls import list_all
from supervisor.cli.conversationctl import main
from supervisor.cli.performing import _member
from supervisor.control.client import ControlClient
from supervisor.control.client_transport import Transport
from supervisor.control.client_views import UnexpectedAnswer
from tests.cli.conftest import Ctl, run_ctl
from tests.cli.daemons import TOKEN, Daemon
from tests.world import World


def test_start_shows_phases_on_stderr_and_the_result_on_stdout(ctl: Ctl) -> None:
    """Whoever pipes the output gets the result alone."""
    ran = ctl("start", "c1", "--label", "team=blue")
    assert ran.code == 0
    assert ran.out.startswith("c1 is RUNNING at http://127.0.0.1:")
    assert [line.split(" of ")[0] for line in ran.err.splitlines() if "phase" in line] == [
        f"c1 phase: {phase}" for phase in ("image", "create", "boot", "agent")
    ]
    assert ran.err.splitlines()[-1] == "c1 status: STARTING -> RUNNING (ready)"


def test_start_without_an_id_chooses_a_uuid_and_follows_it(ctl: Ctl) -> None:
    """Its events are seen from the first one on."""
    ran = ctl("start")
    conversation = ran.out.split()[0]
    assert len(conversation) == 36
    assert f"{conversation} phase: image" in ran.err


def test_start_json_is_the_protocols_conversation_and_nothing_else(ctl: Ctl) -> None:
    """One document on stdout, nothing beside it; `--json` counts on both sides of the command."""
    before, after = ctl("--json", "start", "c1"), ctl("start", "c1", "--json")
    assert before.json == after.json
    assert before.json["id"] == "c1"
    assert before.json["status"] == "RUNNING"
    assert set(before.json) == {
        *("id", "agent", "status", "phase", "execution_status", "observed", "incarnation", "restarts"),
        *("next_restart_at", "sandbox", "error", "labels", "created_at", "updated_at", "last_active_at"),
    }
    assert before.err == after.err == ""


def test_start_sends_every_option(ctl: Ctl, daemon: Daemon[World], tmp_path: Path) -> None:
    """Options, `--spec` and `--request` make the spec and the request; options win over `--spec`."""
    request = tmp_path / "request.json"
    request.write_text('{"initial_message": "hi"}')
    spec = {"image": "other", "workspace": "/w", "env": {"A": "spec", "B": "spec"}}
    ran = ctl(
        *("start", "c1", "--agent", "v1", "--image", "image", "--command", "sh -c 'echo hi'", "--env", "B=2"),
        *("--env", "SECRET", "--port", "9000", "--memory", "64MiB", "--cpus", "0.5", "--user", "1000:1000"),
        *("--network", "bridge", "--pull", "never", "--spec", json.dumps(spec), "--request", f"@{request}"),
        *("--label", "k=v=w", "--timeout", "30s"),
        env={"SECRET": "from the environment"},
    )
    assert ran.code == 0, ran.err
    record = daemon.inside.record()
    assert dict(record.spec.env) == {"A": "spec", "B": "2", "SECRET": "from the environment"}
    assert record.spec.command == ("sh", "-c", "echo hi")
    assert (record.spec.image, record.spec.workspace, record.spec.port) == ("image", "/w", 9000)
    assert (record.spec.memory, record.spec.cpus, record.spec.user) == (64 * 1024**2, 0.5, "1000:1000")
    assert record.request == {"initial_message": "hi"}
    assert record.labels == {"k": "v=w"}


def test_start_reads_the_request_from_standard_input(ctl: Ctl, daemon: Daemon[World]) -> None:
    """`-` keeps secrets out of argv and off the disk."""
    assert ctl("start", "c1", "--request", "-", stdin='{"key": "secret"}').code == 0
    assert daemon.inside.record().request == {"key": "secret"}


def test_start_asks_for_a_provider(ctl: Ctl) -> None:
    """The default may be named; another one only where the config allows it."""
    assert ctl("start", "c1", "--provider", "docker").code == 0
    ran = ctl("start", "c2", "--provider", "process")
    assert ran.code == 3
    assert "spec.provider 'process' is not allowed: [sandbox.allow]" in ran.err


def test_start_asks_for_mounts(ctl: Ctl) -> None:
    """What the config does not allow is refused by name."""
    ran = ctl("start", "c1", "--mount", "/etc:/etc")
    assert ran.code == 3
    assert "conversationctl: start c1 was refused: spec.mounts[0]: mounting '/etc' is not allowed" in ran.err


def test_start_repeated_with_a_key_answers_with_the_first_conversation(ctl: Ctl) -> None:
    """Though a new id was chosen for the second one."""
    first, second = (ctl("start", "--idempotency-key", "k", "--json").json["id"] for _ in range(2))
    assert first == second


def test_start_without_wait_answers_at_once(ctl: Ctl, daemon: Daemon[World]) -> None:
    """The conversation is STARTING, and the person learns how to follow it."""
    daemon.inside.engine.close_gate("launch")
    ran = ctl("start", "c1", "--no-wait")
    assert ran.out == "c1 is STARTING\n"
    assert ran.err == "To follow it: conversationctl events -f c1\n"
    daemon.do(lambda: daemon.inside.engine.open_gate("launch"))
    assert ctl("stop", "c1", "--force").code == 0


def test_start_of_a_failed_conversation_points_to_restart(ctl: Ctl, daemon: Daemon[World]) -> None:
    """The protocol answers with it as it is; a person needs to know what would help."""
    daemon.inside.engine.exits_at_boot.append((3, False))
    assert ctl("start", "c1").code == 4
    ran = ctl("start", "c1")
    assert ran.out.startswith("c1 is ERROR: exited: the sandbox exited with code 3")
    assert ran.err == "It was there already. To start it again: conversationctl restart c1\n"


def test_start_that_fails_shows_the_sandboxs_last_words(ctl: Ctl, daemon: Daemon[World]) -> None:
    """Exit code 4, the cause, the log's tail and what to look at."""
    engine = daemon.inside.engine
    engine.exits_at_boot.append((3, False))
    engine.done = lambda call: engine.sandboxes[next(iter(engine.sandboxes))].lines.extend(
        ["one", "two"] * (call == "launch")
    )
    ran = ctl("start", "c1")
    assert ran.code == 4
    assert "conversationctl: start c1 failed: the sandbox exited with code 3" in ran.err
    assert ran.err.endswith("  its last output:\n    | one\n    | two\n  next: conversationctl get c1\n")
    assert "its last output" not in ctl("start", "missing", "--image", "missing").err


def test_start_that_times_out_has_an_exit_code_of_its_own(ctl: Ctl, daemon: Daemon[World]) -> None:
    """5, as JSON too."""
    daemon.inside.agent.close_gate("wait_ready")
    ran = ctl("start", "c1", "--timeout", "0.05", "--json")
    assert ran.code == 5
    assert ran.out == ""
    error = json.loads(ran.err)
    assert error["exit_code"] == 5
    assert error["error"]["code"] == "timeout"
    assert error["error"]["message"].startswith("the conversation did not start within 0.05 s")


def test_pause_resume_and_stop_say_where_the_conversation_stands(ctl: Ctl) -> None:
    """One sentence each."""
    ctl("start", "c1")
    assert ctl("pause", "c1", "--timeout", "1m").out.startswith("c1 is PAUSED")
    assert ctl("resume", "c1").out.startswith("c1 is RUNNING")
    assert ctl("stop", "c1").out == "c1 is STOPPED\n"
    assert ctl("stop", "c1").out == "c1 was not running; it is STOPPED\n"
    assert ctl("restart", "c1").out.startswith("c1 is RUNNING")
    assert ctl("stop", "c1", "--json").json["was_running"] is True


def test_restart_with_force_boots_what_runs_again(ctl: Ctl) -> None:
    """Its phases are shown as for a start; without force it is refused, with the command that works."""
    ctl("start", "c1")
    refused = ctl("restart", "c1")
    assert refused.code == 3
    assert refused.err.endswith("  next: conversationctl restart --force c1\n")
    forced = ctl("restart", "c1", "--force")
    assert "c1 phase: image of incarnation 2" in forced.err


def test_a_cold_resume_shows_its_phases(ctl: Ctl, daemon: Daemon[World]) -> None:
    """The sandbox was lost while it was paused."""
    ctl("start", "c1")
    ctl("pause", "c1")
    engine = daemon.inside.engine
    daemon.do(lambda: engine.vanish(next(iter(engine.sandboxes))))
    ran = ctl("resume", "c1")
    assert ran.code == 0
    assert "c1 phase: boot of incarnation 2" in ran.err
    assert "c1 status: PAUSED -> RUNNING (resume)" in ran.err


def test_archive_and_delete_end_a_conversation(ctl: Ctl) -> None:
    """Then nobody knows it, but its history stays."""
    ctl("start", "c1")
    ctl("stop", "c1")
    assert ctl("archive", "c1").out == "c1 is ARCHIVED\n"
    assert ctl("delete", "c1").out == "c1 is deleted\n"
    gone = ctl("get", "c1")
    assert gone.code == 3
    assert gone.err == (
        "conversationctl: get c1 was refused: there is no conversation c1\n  next: conversationctl list\n"
    )
    assert "deleted" in ctl("history", "c1").out
    assert ctl("delete", "c1", "--json").code == 3


def test_delete_json_is_an_empty_object(ctl: Ctl) -> None:
    """As the protocol answers."""
    ctl("start", "c1")
    ctl("stop", "c1")
    assert ctl("delete", "c1", "--json").out == "{}\n"


def test_info_describes_the_daemon(ctl: Ctl) -> None:
    """For people and for programs."""
    assert "engine      docker answers, version fake-1, API 1.0\n" in ctl("info").out
    info = ctl("info", "--json").json
    assert info["name"] == "conversationd"
    assert info["capacity"] == {"running": 0, "starting": 0, "max_running": 256, "max_starting": 256}


def test_get_describes_a_conversation(ctl: Ctl) -> None:
    """Everything about it."""
    ctl("start", "c1", "--label", "team=blue")
    lines = ctl("get", "c1").out.splitlines()
    assert lines[0] == "id           c1"
    assert "label        team=blue" in lines
    assert ctl("get", "c1", "--json").json["labels"] == {"team": "blue"}


def test_list_shows_and_filters(ctl: Ctl) -> None:
    """By status and label, as a table and as the protocol's page."""
    for name in ("c1", "c2"):
        ctl("start", name, "--label", f"name={name}")
    ctl("stop", "c2")
    rows = ctl("list").out.splitlines()
    assert rows[0].split() == ["ID", "STATUS", "AGENT", "SEEN", "BOOT", "RESTARTS", "AGE", "IMAGE", "ERROR"]
    assert [row.split()[0] for row in rows[1:]] == ["c1", "c2"]
    assert [each["id"] for each in ctl("list", "--status", "stopped", "--json").json["items"]] == ["c2"]
    assert [each["id"] for each in ctl("list", "--label", "name=c1", "--json").json["items"]] == ["c1"]
    empty = ctl("list", "--status", "PAUSED")
    assert (empty.code, empty.out, empty.err) == (0, "", "There are no such conversations.\n")


def test_list_by_page_tells_the_cursor(ctl: Ctl) -> None:
    """And goes on from it."""
    for name in ("c1", "c2"):
        ctl("start", name)
    first = ctl("list", "--limit", "1")
    assert first.err.startswith("There are more: --cursor ")
    cursor = first.err.split()[-1]
    page = ctl("list", "--cursor", cursor, "--json").json
    assert [each["id"] for each in page["items"]] == ["c2"]
    assert page["next_cursor"] is None


def test_connect_tells_url_and_key(ctl: Ctl) -> None:
    """The only command that shows the session key."""
    ctl("start", "c1")
    access = ctl("connect", "c1", "--json").json
    assert access["url"].startswith("http://127.0.0.1:")
    assert access["session_api_key"] in ctl("connect", "c1").out


def test_logs_prints_the_last_lines(ctl: Ctl, daemon: Daemon[World]) -> None:
    """As they are for a pipe; with -f until the sandbox ends."""
    ctl("start", "c1")
    (sandbox,) = daemon.inside.engine.sandboxes.values()
    sandbox.lines.extend(["one", "\x1b[31mtwo\x1b[0m", "three"])
    assert ctl("logs", "c1", "--tail", "2").out == "\x1b[31mtwo\x1b[0m\nthree\n"
    assert ctl("logs", "c1", "-f").out.splitlines()[0] == "one"
    assert ctl("logs", "c1", "--json").json == {"lines": ["one", "\x1b[31mtwo\x1b[0m", "three"]}
    assert ctl("logs", "c1", "-f", "--json", "--tail", "1").lines == ["three"]


def test_history_shows_the_events_of_one_conversation(ctl: Ctl) -> None:
    """All of them, or those after one, or so many."""
    ctl("start", "c1")
    every = ctl("history", "c1", "--json").json["events"]
    assert [event["kind"] for event in every][:2] == ["created", "status"]
    limited = ctl("history", "c1", "--json", "--limit", "1", "--since", str(every[0]["seq"])).json["events"]
    assert limited == every[1:2]
    assert len(ctl("history", "c1").out.splitlines()) == len(every)


def test_history_goes_on_page_after_page(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; nobody's history is refused."""
    ctl("start", "c1")
    every = ctl("history", "c1", "--json").json["events"]
    monkeypatch.setattr("supervisor.cli.calls._PAGE", 3)
    assert ctl("history", "c1", "--json").json["events"] == every
    assert ctl("history", "nobody").err.startswith("conversationctl: history nobody was refused: there is no")


def test_tcp_wants_the_token(daemon: Daemon[World], tmp_path: Path) -> None:
    """From a file or the environment, never from argv; without it the refusal says how to give it."""
    file = tmp_path / "shown-token"
    file.write_text(f"{TOKEN}\n")
    address = ("--address", str(daemon.tcp))
    assert run_ctl(*address, "--token-file", str(file), "info").code == 0
    assert run_ctl(*address, "info", env={"CONVERSATIOND_TOKEN_FILE": str(file)}).code == 0
    assert run_ctl(*address, "info", env={"CONVERSATIOND_TOKEN": TOKEN}).code == 0
    wrong = run_ctl(*address, "info", env={"CONVERSATIOND_TOKEN": "wrong"})
    assert wrong.code == 3
    assert wrong.err.endswith("  next: name the token's file with --token-file or $CONVERSATIOND_TOKEN_FILE\n")
    missing = run_ctl(*address, "--token-file", str(tmp_path / "none"), "info")
    assert missing.code == 2
    assert "none cannot be read: No such file or directory" in missing.err


def test_the_address_comes_from_the_environment(daemon: Daemon[World]) -> None:
    """If none is given."""
    assert run_ctl("info", env={"CONVERSATIOND_ADDRESS": str(daemon.unix)}).code == 0


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    """6, in one sentence and what to do; as JSON for programs."""
    address = ("--address", f"unix:{tmp_path}/none.sock")
    ran = run_ctl(*address, "list")
    assert ran.code == 6
    assert ran.err.startswith(f"conversationctl: list did not get through: cannot connect to unix:{tmp_path}/none.sock")
    assert ran.err.count("\n") == 2
    assert json.loads(run_ctl(*address, "list", "--json").err)["error"]["code"] == "unreachable"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("get", "a/b"), "an id is 1 to 64 of"),
        (("--address", "nowhere", "info"), "an address is unix:/absolute/path or tcp:HOST:PORT"),
        (("start", "--timeout", "soon"), "a bare number is seconds"),
        (("start", "--timeout", "0"), "is not more than 0 seconds"),
        (("start", "--timeout", "nan"), "is not more than 0 seconds"),
        (("start", "--env", "=x"), "write it as KEY=VALUE"),
        (("start", "--env", "NO_SUCH_VARIABLE"), "variable that is set here"),
        (("start", "--label", "x"), "--label 'x': write it as KEY=VALUE"),
        (("start", "--command", "echo 'x"), "No closing quotation"),
        (("start", "--spec", "[1]"), "this is no JSON object"),
        (("start", "--request", "{"), "this: Expecting property name"),
        (("start", "--request", "@/no/such/file"), "No such file"),
        (("nonsense",), "No such command"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: tuple[str, ...], sentence: str) -> None:
    """And says what is allowed, before anything is asked."""
    ran = run_ctl(*words)
    assert ran.code == 2
    assert sentence in " ".join(ran.err.split())


def test_secrets_of_a_broken_request_are_not_shown() -> None:
    """The error names where it came from only."""
    assert "topsecret" not in run_ctl("start", "--request", '{"api_key": "topsecret"').err


def test_every_command_has_help_with_an_example() -> None:
    """And the group lists the exit codes."""
    overview = run_ctl("--help").out
    assert "6    unreachable" in overview
    listing = overview.partition("Commands:")[2].partition("Exit codes:")[0]
    commands = [line.split()[0] for line in listing.splitlines() if line.strip()]
    assert len(commands) == 16
    for command in commands:
        text = run_ctl(command, "--help").out
        assert "Example: " in text, command
        assert "conversationctl" in text


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["completion", "bash"], None), (["info"], 6), (["nonsense"], 2)]
)
def test_main_ends_with_the_exit_code(
    words: list[str], code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a program; a stream that knows no encoding is fine."""
    monkeypatch.setattr(sys, "argv", ["conversationctl", *words])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("CONVERSATIOND_ADDRESS", f"unix:{tmp_path}/none")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code


def test_ctrl_c_has_its_code_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """While libraries are loaded or standard input is read."""
    monkeypatch.setattr(sys, "argv", ["conversationctl", "start", "--request", "-"])
    monkeypatch.setattr(sys, "stdin", Mock(read=Mock(side_effect=KeyboardInterrupt)))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130


def test_answers_that_make_no_sense_are_told() -> None:
    """Whatever listens there, it is no conversationd."""
    for nonsense in ("[]", '{"items": 7}'):
        client = ControlClient(cast("Transport", Answering(nonsense)))
        with pytest.raises(UnexpectedAnswer):
            trio.run(list_all, client, {})
    with pytest.raises(UnexpectedAnswer):
        _member([], "items")


class Answering:
    """A transport that answers everything alike."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def call(self, *_: object) -> object:
        """Answer."""
        await trio.lowlevel.checkpoint()
        return json.loads(self._answer)


def test_version_names_the_program() -> None:
    """`--version`."""
    assert run_ctl("--version").out.startswith("conversationctl 0.")
