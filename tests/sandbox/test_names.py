"""Names and labels, and whose a container is."""

import pytest

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.names import Ownership

NAMES = Names("0123456789abcdef")
C1 = ConversationId("c1")


def test_names_are_read_back() -> None:
    """A container's own labels and name say whose it is."""
    labels = NAMES.container_labels(C1, 3)
    assert NAMES.read_ownership("conversationd-01234567-c1-3", labels) == Ownership(C1, 3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("something-else", {}),
        ("conversationd-01234567-c1-3", {"io.conversationd.owner": "0123456700000000"}),
        ("conversationd-01234567-c1-3", {"io.conversationd.incarnation": "4"}),
        ("conversationd-01234567-c1-3", {"io.conversationd.incarnation": "three"}),
        ("conversationd-01234567-../x-3", {"io.conversationd.conversation": "../x"}),
    ],
)
def test_foreign_containers_are_told_apart(name: str, changes: dict[str, str]) -> None:
    """Another owner, a name that does not fit its labels, or labels that we never wrote."""
    assert NAMES.read_ownership(name, {**NAMES.container_labels(C1, 3), **changes}) is None


def test_container_without_labels_is_foreign() -> None:
    """Whatever its name."""
    assert NAMES.read_ownership("conversationd-01234567-c1-3", {}) is None


def test_workspaces_are_told_apart() -> None:
    """By owner and conversation; the engine says None where there are no labels."""
    assert NAMES.owns_workspace(C1, NAMES.workspace_labels(C1))
    assert not NAMES.owns_workspace(C1, NAMES.workspace_labels(ConversationId("c2")))
    assert not NAMES.owns_workspace(C1, None)


def test_what_another_invocation_made_is_told_apart() -> None:
    """The same daemon, started again, has another one; a container of a version that did not write it has none."""
    labels = NAMES.container_labels(C1, 3)
    assert NAMES.made_now(labels)
    assert not Names(NAMES.owner).made_now(labels)
    assert not NAMES.made_now(NAMES.workspace_labels(C1))


def test_workspace_names_are_read_back() -> None:
    """Whatever an id may be; those of another daemon, and what is no id, are nobody's."""
    for conversation in (C1, ConversationId("conversationd-01234567-c1")):
        assert NAMES.read_workspace(NAMES.workspace(conversation)) == conversation
    for name in ("conversationd-76543210-c1", "conversationd-01234567-", "conversationd-01234567-a.b", "c1"):
        assert NAMES.read_workspace(name) is None
