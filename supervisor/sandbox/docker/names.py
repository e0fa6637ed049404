"""What our containers and volumes are called, and how we know that one is ours."""

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Final

import attrs

from supervisor.conversation.ids import ConversationId, parse_conversation_id
from supervisor.sandbox.names import Ownership, owner_name, read_workspace_name, sandbox_name, workspace_name

OWNER_LABEL: Final = "io.conversationd.owner"
CONVERSATION_LABEL: Final = "io.conversationd.conversation"
INCARNATION_LABEL: Final = "io.conversationd.incarnation"
INVOCATION_LABEL: Final = "io.conversationd.invocation"
_INVOCATION_BYTES: Final = 8


@attrs.frozen
class Names:
    """The names that one daemon gives. `owner` is the id of its state directory.

    `invocation` is another one at each start of the daemon, as systemd's invocation ID is (systemd.exec(5)): by it we
    know what we have made ourselves from what a predecessor made, who may have died with requests under way.
    """

    owner: str
    invocation: str = attrs.field(factory=partial(secrets.token_hex, _INVOCATION_BYTES))

    def container(self, conversation: ConversationId, incarnation: int) -> str:
        """The name of one incarnation's container."""
        return sandbox_name(self.owner, conversation, incarnation)

    def workspace(self, conversation: ConversationId) -> str:
        """The name of the conversation's volume."""
        return workspace_name(self.owner, conversation)

    def workspaces_filter(self) -> str:
        """The engine's name filter for our volumes."""
        return f"^{owner_name(self.owner)}-"

    def read_workspace(self, name: str) -> ConversationId | None:
        """Whose volume has this name, None for a name that is none of ours; its labels say whether it is ours."""
        return read_workspace_name(self.owner, name)

    def container_labels(self, conversation: ConversationId, incarnation: int) -> dict[str, str]:
        """The labels by which a container is ours, and of this invocation."""
        return {
            **self.workspace_labels(conversation),
            INCARNATION_LABEL: str(incarnation),
            INVOCATION_LABEL: self.invocation,
        }

    def made_now(self, labels: Mapping[str, str]) -> bool:
        """Whether this invocation made the container of ours that has these labels."""
        return labels.get(INVOCATION_LABEL) == self.invocation

    def workspace_labels(self, conversation: ConversationId) -> dict[str, str]:
        """The labels by which a volume is ours."""
        return {OWNER_LABEL: self.owner, CONVERSATION_LABEL: conversation}

    def owner_filter(self) -> str:
        """The engine's label filter for what is ours."""
        return f"{OWNER_LABEL}={self.owner}"

    def read_ownership(self, name: str, labels: Mapping[str, str]) -> Ownership | None:
        """Whose a container is; None for a foreign one.

        The name must fit the labels: an image that was committed from a sandbox hands its labels on to containers
        that are none of ours.
        """
        ownership = self.read_labels(labels)
        if ownership is None or name != self.container(ownership.conversation, ownership.incarnation):
            return None
        return ownership

    def read_labels(self, labels: Mapping[str, str]) -> Ownership | None:
        """What labels of ours say; None for foreign ones."""
        try:
            ownership = Ownership(parse_conversation_id(labels[CONVERSATION_LABEL]), int(labels[INCARNATION_LABEL]))
        except (KeyError, ValueError):
            return None
        return ownership if labels.get(OWNER_LABEL) == self.owner else None

    def owns_workspace(self, conversation: ConversationId, labels: Mapping[str, str] | None) -> bool:
        """Whether a volume of our name is ours; the engine says None for a volume without labels."""
        return (labels or {}).items() >= self.workspace_labels(conversation).items()
