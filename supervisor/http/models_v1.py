"""What clients of OpenHands' V1 application routes send and get, as that server of late 2025 has it.

The names, shapes and defaults are those of its `app_conversation_models.py` and `sandbox_models.py`. What we have no
value for is null or empty, as it is there for a single user without a repository.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from supervisor.conversation.record import ExecutionStatus
from supervisor.http.models import Id, JsonMapping, LabelValue, Model, ShortText, Time

MOST_IDS: Final = 100
"""How many can be looked up at once: what the front end asks for at most."""

_UUID: Final = "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$"
_EMPTY: Final[tuple[object, ...]] = ("", [], {})
_WHY_NOT: Final = {
    "selected_repository": "no repository is cloned into a workspace",
    "selected_branch": "no repository is cloned into a workspace",
    "git_provider": "no repository is cloned into a workspace",
    "dependency_repos": "no repository is cloned into a workspace",
    "suggested_task": "tasks are not looked up: say what is to be done in initial_message",
    "pr_number": "pull requests are not followed",
    "parent_conversation_id": "each conversation has a sandbox of its own, so none has a parent",
    "processors": "events are not processed here: follow them at /api/events",
    "plugins": "plugins are not fetched",
    "secrets": "secrets are not handed on: give them to the agent in agent_settings",
    "public": "conversations are not shared",
    "agent_profile_id": "there are no agent profiles: say it in agent_settings",
}


class SandboxStatus(StrEnum):
    """How a sandbox does."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    ERROR = "ERROR"
    MISSING = "MISSING"


class StartTaskStatus(StrEnum):
    """How far a start is. The other words of the original are about repositories and skills."""

    WORKING = "WORKING"
    WAITING_FOR_SANDBOX = "WAITING_FOR_SANDBOX"
    STARTING_CONVERSATION = "STARTING_CONVERSATION"
    READY = "READY"
    ERROR = "ERROR"


class ExposedUrl(Model):
    """Where a service of a sandbox is reached. `port` is the one inside."""

    name: str
    url: str
    port: int


class SandboxInfo(Model):
    """A sandbox. What reaches its agent server is told while it is RUNNING."""

    id: str
    created_by_user_id: None = None
    sandbox_spec_id: str
    status: SandboxStatus
    session_api_key: str | None = Field(repr=False)
    exposed_urls: list[ExposedUrl] | None
    created_at: Time


class SandboxPage(Model):
    """One page of sandboxes, newest first."""

    items: list[SandboxInfo]
    next_page_id: str | None


class AppConversation(Model):
    """A conversation and what its sandbox does. `execution_status`, URL and key are null unless that is RUNNING."""

    id: str
    created_by_user_id: None = None
    sandbox_id: str
    selected_repository: None = None
    selected_branch: None = None
    git_provider: None = None
    title: str
    trigger: str | None
    pr_number: list[int] = Field(default_factory=list)
    llm_model: str | None
    metrics: None = None
    parent_conversation_id: None = None
    sub_conversation_ids: list[str] = Field(default_factory=list)
    public: None = None
    created_at: Time
    updated_at: Time
    sandbox_status: SandboxStatus
    execution_status: ExecutionStatus | None
    conversation_url: str | None
    session_api_key: str | None = Field(repr=False)


class AppConversationPage(Model):
    """One page of conversations, newest first."""

    items: list[AppConversation]
    next_page_id: str | None


def _empty(value: object, info: ValidationInfo) -> None:
    """Take what asks for nothing.

    Raises:
        PydanticCustomError: it asks for something that is not to be had here.
    """
    if value is not None and value is not False and value not in _EMPTY:
        why = _WHY_NOT[str(info.field_name)]
        raise PydanticCustomError("not_honoured", "cannot be honoured: {why}", {"why": why})


NotHonoured: TypeAlias = Annotated[
    None,
    BeforeValidator(_empty),
    WithJsonSchema(
        {"enum": [None, False, *_EMPTY], "description": "Taken if it asks for nothing, and refused otherwise."}
    ),
]
UuidText: TypeAlias = Annotated[str, Field(pattern=_UUID)]


class FirstMessage(Model):
    """What the agent is told first. `content` is the agent server's to judge; it is worked on unless `run` is false."""

    role: Literal["user", "system", "assistant", "tool"] = "user"
    content: list[JsonMapping] = Field(default_factory=list)
    run: bool = True


class StartConversation(Model):
    """How a conversation is started.

    `agent_settings` and `workspace` are an extension: those keys of the agent server's start call. The original fills
    in what its settings page says; here the file of `[agent] request_file` lies under every start.
    """

    conversation_id: UuidText | None = Field(default=None, description="The id to have; else one is made.")
    sandbox_id: Id | None = Field(default=None, description="The same: a sandbox has the id of its conversation.")
    initial_message: FirstMessage | None = Field(default=None, repr=False)
    system_message_suffix: str | None = Field(default=None, repr=False)
    llm_model: ShortText | None = Field(default=None, description="Goes before `agent_settings.llm.model`.")
    title: LabelValue | None = None
    trigger: LabelValue | None = None
    agent_type: Literal["default"] | None = None
    agent_settings: JsonMapping | None = Field(default=None, repr=False)
    workspace: JsonMapping | None = None
    selected_repository: NotHonoured = None
    selected_branch: NotHonoured = None
    git_provider: NotHonoured = None
    dependency_repos: NotHonoured = None
    suggested_task: NotHonoured = None
    pr_number: NotHonoured = None
    parent_conversation_id: NotHonoured = None
    processors: NotHonoured = None
    plugins: NotHonoured = None
    secrets: NotHonoured = None
    public: NotHonoured = None
    agent_profile_id: NotHonoured = None


class StartedWith(Model):
    """The request of a start task, as far as it is no secret: only the agent is told messages and settings."""

    sandbox_id: None = None
    conversation_id: str
    initial_message: None = None
    system_message_suffix: None = None
    processors: list[str] = Field(default_factory=list)
    llm_model: str | None
    selected_repository: None = None
    selected_branch: None = None
    git_provider: None = None
    suggested_task: None = None
    title: str | None
    trigger: str | None
    pr_number: list[int] = Field(default_factory=list)
    parent_conversation_id: None = None
    agent_type: Literal["default"] = "default"
    public: None = None
    plugins: None = None


class StartTask(Model):
    """The start of a conversation. `app_conversation_id` is told when it is READY, `detail` when it is ERROR."""

    id: str
    created_by_user_id: None = None
    status: StartTaskStatus
    detail: str | None
    app_conversation_id: str | None
    sandbox_id: str
    agent_server_url: str | None
    request: StartedWith
    created_at: Time
    updated_at: Time


class StartTaskPage(Model):
    """One page of start tasks."""

    items: list[StartTask]
    next_page_id: str | None
