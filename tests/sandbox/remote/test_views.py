"""What the host says, in our terms."""

import json
from typing import Any

import attrs
import pytest

from supervisor.conversation.errors import SandboxFailed
from supervisor.conversation.json import JsonObject
from supervisor.conversation.spec import Mount, PullPolicy
from supervisor.sandbox.port import SandboxState, SandboxView
from supervisor.sandbox.remote.address import parse_host_address
from supervisor.sandbox.remote.answers import Garbled, parse_runtime, parse_runtimes
from supervisor.sandbox.remote.starts import start_body
from supervisor.sandbox.remote.views import is_in_doubt, read_view
from tests.sandbox.remote.scripted_host import NAME, PLAN, runtime

RUNNING, PAUSED, EXITED = SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.EXITED


def view(**more: Any) -> SandboxView:  # noqa: ANN401 - JSON
    """The view of a runtime."""
    return read_view(parse_runtime(json.dumps(runtime(**more)).encode()))


@pytest.mark.parametrize(
    ("status", "pod_status", "state", "pending"),
    [
        ("running", "ready", RUNNING, False),
        ("running", "pending", RUNNING, True),
        ("running", "running", RUNNING, True),
        ("running", "restarting", RUNNING, True),
        ("running", "not found", RUNNING, True),
        ("starting", "pending", RUNNING, True),
        ("starting", "ready", RUNNING, False),
        ("starting", "", RUNNING, True),
        ("running", "", RUNNING, False),
        ("running", "unknown", RUNNING, False),
        ("running", "some new word", RUNNING, False),
        ("some new word", "some new word", RUNNING, True),
        ("paused", "not found", PAUSED, False),
        ("paused", "ready", PAUSED, False),
        ("paused", "pending", PAUSED, False),
        ("error", "restarting", RUNNING, True),
        ("error", "unknown", RUNNING, True),
        ("running", "failed", EXITED, False),
        ("running", "CrashLoopBackOff", EXITED, False),
        ("starting", "error", EXITED, False),
        ("error", "failed", EXITED, False),
        ("error", "not found", EXITED, False),
        ("stopped", "not found", EXITED, False),
    ],
)
def test_state_is_never_taken_for_an_end_that_may_be_none(
    status: str, pod_status: str, state: SandboxState, pending: bool
) -> None:
    """`pod_status` goes before `status`, and a word that is not known to mean an end means none."""
    shown = view(status=status, pod_status=pod_status)
    assert (shown.state, shown.is_pending) == (state, pending)
    assert (shown.published is None) is (pending or state is EXITED)


def test_what_its_host_does_not_know_either_is_in_doubt() -> None:
    """It has given up on it while its own engine was out of sight."""
    assert is_in_doubt(parse_runtime(json.dumps(runtime(status="error", pod_status="unknown")).encode()))


def test_view_tells_where_it_is_and_what_opens_it() -> None:
    """The key is the host's own for it, and is not shown where the view is."""
    shown = view()
    assert (shown.id, shown.name, shown.url, shown.session_key) == ("r1", NAME, "https://r1.example/x", "the-key-of-r1")
    assert "the-key-of-r1" not in repr(shown)


def test_view_without_a_key_has_the_plans() -> None:
    """A host that tells no key has not put one of its own in the place of ours."""
    assert view(session_api_key=None).session_key is None


@pytest.mark.parametrize(
    "url", [None, "", 7, "ftp://x", "http://", "https://user@x/", "https://x:port/", "https://x/?a=1"]
)
def test_runtime_without_a_url_that_can_be_used_is_pending(url: object) -> None:
    """It is alive; where it is may be told yet."""
    assert view(url=url).is_pending


def test_end_tells_what_the_host_tells() -> None:
    """How often it was restarted and why, and whether it was for want of memory in the end."""
    ended = view(status="error", pod_status="crashloopbackoff", restart_count=1, restart_reasons=["Error", "OOMKilled"])
    assert (ended.state, ended.oom_killed, ended.exit_code) == (EXITED, True, None)
    assert ended.message == "crashloopbackoff after 1 restarts: Error, OOMKilled"
    assert not view(pod_status="failed", restart_reasons=["OOMKilled", "Error"]).oom_killed
    assert view(pod_status="failed", pod_logs="it broke\nhere").message == "failed; it broke"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"null", b"[" * 10_000, b'{"runtime_id": 1, "session_id": "x"}', b'{"runtime_id": "r"}'],
)
def test_garbage_is_no_runtime(body: bytes) -> None:
    """Whatever it is."""
    with pytest.raises(Garbled):
        parse_runtime(body)


def test_fields_of_another_kind_are_not_there() -> None:
    """Nulls and numbers in place of words do not hide what else is told."""
    odd = runtime(pod_status=None, restart_reasons=None, restart_count="2", pod_logs=["x"], session_api_key=5)
    assert parse_runtime(json.dumps(odd).encode()).restart_count == 0
    assert not view(**odd).is_pending


def test_list_leaves_out_what_is_no_runtime() -> None:
    """The others are found all the same."""
    listed = parse_runtimes(json.dumps({"runtimes": [None, {}, runtime(), 7]}).encode())
    assert [each.session_id for each in listed] == [NAME]
    with pytest.raises(Garbled):
        parse_runtimes(b'{"runtimes": {}}')


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://host.example", "https://host.example"),
        ("https://host.example:8443/api/", "https://host.example:8443/api"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_host_address_is_a_url(text: str, url: str) -> None:
    """With TLS, or on this host."""
    assert parse_host_address(text).url == url


@pytest.mark.parametrize(
    "text",
    ["http://host.example", "http://10.0.0.1:3000", "host.example", "https://u:p@host.example", "https://h/?k=1"],
)
def test_host_address_that_would_give_the_key_away_is_refused(text: str) -> None:
    """The key is sent to it: in the clear to nobody."""
    with pytest.raises(ValueError, match=r"must be like|in the clear"):
        parse_host_address(text)


def body(**spec: Any) -> JsonObject:  # noqa: ANN401 - any field
    """What is asked for by a spec that differs so."""
    return start_body(attrs.evolve(PLAN, spec=attrs.evolve(PLAN.spec, **spec)), NAME, 2**30)


def test_start_says_what_the_api_has_words_for() -> None:
    """The entrypoint and the command are all that runs; what is the host's to decide is left out."""
    assert body() == {
        "image": "image",
        "session_id": NAME,
        "environment": {"KEY": "secret"},
        "image_pull_policy": "Never",
        "command": ["serve"],
    }
    more = body(
        entrypoint=("sh", "-c"),
        working_dir="/tmp",
        runtime="runsc",
        user="10001:100",
        memory=3 * 2**30,
        pull=PullPolicy.ALWAYS,
    )
    assert more["command"] == ["sh", "-c", "serve"]
    assert (more["working_dir"], more["runtime_class"], more["resource_factor"]) == ("/tmp", "runsc", 4)
    assert (more["run_as_user"], more["run_as_group"], more["fs_group"]) == (10001, 100, 100)
    assert more["image_pull_policy"] == "Always"
    assert "run_as_group" not in body(user="10001")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"user": "agent"}, "numbers"),
        ({"mounts": (Mount("/a", "/b"),)}, "mounts"),
        ({"memory": 9 * 2**30}, "memory"),
    ],
)
def test_start_of_what_no_host_can_be_asked_for_is_refused(wanted: dict[str, Any], told: str) -> None:
    """Rather than run something else."""
    with pytest.raises(SandboxFailed, match=told):
        body(**wanted)
