"""Names that a caller chooses reach no path, no shell and no other conversation."""

from pathlib import Path

import pytest

from tests.hostile.peer import client
from tests.hostile.target import Target

HOSTILE = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "-rf",
    "--help",
    "_",
    "a b",
    " a",
    "a\n",
    "a\r\nHost: evil",
    "a\0b",
    "\0",
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "a|b",
    "a&b",
    "a'b",
    'a"b',
    "a%2e%2e",
    "%s%n",
    "{0.__class__}",
    "a*",
    "~root",
    "a:b",
    "a@b",
    "a.b",
    "caf\u00e9",
    "\u0430dmin",
    "\uff41bc",
    "a\u200bb",
    "a\u202eb",
    "\u0661\u0662",
    "\ufeffa",
    "K\u212a",
    "\U0001f600",
    "a" * 65,
    "a" * 10_000,
    "' OR 1=1 --",
    "running\0",
    "running ",
    "RUNNING\u0000",
)
TAKES_AN_ID = (
    "conversation.start",
    "conversation.pause",
    "conversation.resume",
    "conversation.stop",
    "conversation.restart",
    "conversation.archive",
    "conversation.delete",
    "conversation.get",
    "conversation.connect",
    "conversation.logs",
    "conversation.history",
)


def tree(directory: Path) -> set[Path]:
    """Everything below a directory."""
    return set(directory.rglob("*"))


@pytest.mark.parametrize("method", TAKES_AN_ID)
def test_hostile_id_is_refused_by_its_path(target: Target, method: str) -> None:
    """By every method that takes one, as a wrong parameter; nothing is made, and nothing is found."""
    before = tree(target.process.directory)
    with client(target.unix) as peer:
        for hostile in HOSTILE:
            error = peer.ask(method, {"id": hostile})["error"]
            assert (error["code"], error["data"]["path"]) == (-32602, "id"), hostile
    assert tree(target.process.directory) <= before


def test_hostile_ids_of_a_subscription_are_refused(target: Target) -> None:
    """Each by its index."""
    with client(target.unix) as peer:
        for hostile in HOSTILE:
            error = peer.ask("events.subscribe", {"ids": ["running", hostile]})["error"]
            assert (error["code"], error["data"]["path"]) == (-32602, "ids[1]"), hostile


def test_hostile_names_of_drivers_and_providers_are_refused(target: Target) -> None:
    """They name an entry of a table, and nothing that could be loaded."""
    with client(target.unix) as peer:
        for hostile in ("os", "../v1", "v1\0", "V1", "__init__", "supervisor.agent.v1", "v1.py"):
            for params in ({"agent": hostile}, {"spec": {"provider": hostile}}):
                error = peer.ask("conversation.start", params)["error"]
                assert error["code"] == -32602 or error["data"]["code"] == "forbidden", params


def test_hostile_labels_find_only_what_has_them(target: Target) -> None:
    """A label is compared as a whole; no name or value is a pattern, a path or a piece of SQL."""
    with client(target.unix) as peer:
        for hostile in (*HOSTILE[1:-5], "$", "$.x", "a[0]", '"', "%", "_"):
            for labels in ({hostile: ""}, {"a": hostile}):
                answer = peer.ask("conversation.list", {"labels": labels})
                assert answer.get("result", {"items": []})["items"] == [], labels


@pytest.mark.parametrize("labels", [{"a\0b": "c"}, {"a": "c\0d"}, {"\0": "\0"}])
def test_labels_with_nul_are_refused(target: Target, labels: dict[str, str]) -> None:
    """SQLite ends a text there, so one label would be found as another."""
    with client(target.unix) as peer:
        for method in ("conversation.start", "conversation.list"):
            error = peer.ask(method, {"labels": labels})["error"]
            assert error["code"] == -32602
            assert error["data"]["path"].startswith("labels.")


def test_hostile_cursors_and_subscriptions_are_not_found(target: Target) -> None:
    """Text that is handed back is as little trusted as any other."""
    with client(target.unix) as peer:
        for hostile in (*HOSTILE[1:], "1e3", "-1", "+1", "0x1", "9" * 30, "1_000", " 1"):
            error = peer.ask("conversation.list", {"cursor": hostile})["error"]
            assert error["data"]["code"] == "not_found", hostile
            error = peer.ask("events.unsubscribe", {"subscription": hostile})["error"]
            assert error["code"] == -32602 or error["data"]["code"] == "not_found", hostile
