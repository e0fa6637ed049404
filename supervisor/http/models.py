"""What HTTP clients send and get, as frozen models: the source of the published OpenAPI document.

They say how JSON looks. What a value may be beyond its type is decided where the control channel decides it, in
`supervisor.control.messages`; limits that JSON Schema can say are repeated here by the same names.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from supervisor.control.messages import MAX_LABEL_NAME, MAX_LABEL_VALUE, MAX_LABELS
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus
from supervisor.http.spec_schema import SPEC_SCHEMA

ID_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
LABEL_PATTERN: Final = r"^[^\x00]*$"
MAX_SEQUENCE: Final = 2**63 - 1

Id: TypeAlias = Annotated[str, Field(pattern=ID_PATTERN)]
Time: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Seconds: TypeAlias = Annotated[float, Field(gt=0, description="Seconds that the command may take.")]
ShortText: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
LabelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_NAME, pattern=LABEL_PATTERN)]
LabelValue: TypeAlias = Annotated[str, Field(max_length=MAX_LABEL_VALUE, pattern=LABEL_PATTERN)]
Labels: TypeAlias = Annotated[dict[LabelName, LabelValue], Field(max_length=MAX_LABELS)]
JsonMapping: TypeAlias = dict[str, Any]  # Any: JSON that is another room's to read


class Model(BaseModel):
    """A frozen model that knows no other keys and converts nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AgentState(StrEnum):
    """What the agent does, in the words of OpenHands' older clients."""

    LOADING = "LOADING"
    AWAITING_USER_INPUT = "AWAITING_USER_INPUT"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    AWAITING_USER_CONFIRMATION = "AWAITING_USER_CONFIRMATION"
    FINISHED = "FINISHED"
    ERROR = "ERROR"


class RuntimeStatus(StrEnum):
    """How far the sandbox is, in the words of OpenHands' older clients."""

    STOPPED = "STATUS$STOPPED"
    BUILDING_RUNTIME = "STATUS$BUILDING_RUNTIME"
    STARTING_RUNTIME = "STATUS$STARTING_RUNTIME"
    RUNTIME_STARTED = "STATUS$RUNTIME_STARTED"
    SETTING_UP_WORKSPACE = "STATUS$SETTING_UP_WORKSPACE"
    READY = "STATUS$READY"
    ERROR = "STATUS$ERROR"


class ConversationVersion(StrEnum):
    """Which agent server a conversation has."""

    V0 = "V0"
    V1 = "V1"


class Problem(Model):
    """Why a conversation is in ERROR, or why its last sandbox ended."""

    code: str
    message: str
    at: Time
    exit_code: int | None = None
    oom_killed: bool | None = None
    log_tail: list[str] | None = None


class ConversationInfo(Model):
    """A conversation. While it is RUNNING `url` and `session_api_key` reach its agent server; else they are null."""

    conversation_id: str
    title: str
    status: Status
    runtime_status: RuntimeStatus
    url: str | None
    session_api_key: str | None = Field(repr=False)
    created_at: Time
    last_updated_at: Time
    conversation_version: ConversationVersion
    execution_status: ExecutionStatus | None
    agent_state: AgentState
    error: Problem | None


class ConversationPage(Model):
    """One page of conversations, oldest first; `next_page_id` is null on the last one."""

    results: list[ConversationInfo]
    next_page_id: str | None


class ConversationAnswer(Model):
    """What a command answers that changes what a conversation is."""

    status: Literal["ok"] = "ok"
    conversation_id: str
    message: str
    conversation_status: Status


class Success(Model):
    """What a command answers that has nothing else to say."""

    success: Literal[True] = True


class StartBody(Model):
    """How a conversation is started, as `conversation.start` of the control protocol takes it.

    `providers_set` is what front ends of OpenHands send; it is taken and not used.
    """

    agent: ShortText | None = Field(default=None, description="The agent driver: `v1`, `none`, ...")
    spec: Annotated[JsonMapping | None, WithJsonSchema(SPEC_SCHEMA)] = None
    request: JsonMapping | None = Field(
        default=None, repr=False, description="The body of the agent server's start call."
    )
    labels: Labels | None = Field(default=None, description="The label `title` is the conversation's title.")
    wait: bool = Field(default=True, description="Whether to answer once it runs, or as soon as the start is durable.")
    timeout: Seconds | None = None
    idempotency_key: ShortText | None = Field(default=None, description="The header `Idempotency-Key` goes before it.")
    providers_set: list[str] | None = None


class CreateBody(StartBody):
    """The same with an id, which is made if there is none."""

    id: Id | None = None


class CommandBody(Model):
    """A command with a deadline."""

    timeout: Seconds | None = None


class ForcibleBody(CommandBody):
    """A command with a deadline that can be forced."""

    force: bool | None = None


class ErrorDetail(BaseModel):
    """What went wrong: its `code`, in words, and further fields that depend on the code."""

    model_config = ConfigDict(frozen=True, extra="allow")

    code: str
    message: str


class ErrorAnswer(Model):
    """The body of every answer that is no success."""

    error: ErrorDetail


class WordedErrorAnswer(ErrorAnswer):
    """The same, with `detail` and `message` for clients that look for the words there.

    A request that does not get as far as a route is answered without them.
    """

    detail: str | None = None
    message: str | None = None
