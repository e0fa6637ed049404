"""What clients of a hosted runtime send and get: the runtime API that OpenHands' clients know, as frozen models."""

from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

from supervisor.conversation.json import JsonObject
from supervisor.http.models import Id, Model
from supervisor.http.spec_schema import COMMAND, ENVIRONMENT, NAME, RUNTIME, WORKING_DIRECTORY

SESSION_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9._:@+-]{0,255}$"

# What a shell's words are: every quotation is closed, and nothing ends in a backslash.
_WORDS: Final[JsonObject] = {
    "type": "string",
    "pattern": r"""^([^\u0000'"\\]|\\[^\u0000]|'[^\u0000']*'|"([^\u0000"\\]|\\[^\u0000])*")*$""",
}
_MOST_NUMBER: Final = 2**31 - 1

SessionId: TypeAlias = Annotated[str, Field(pattern=SESSION_PATTERN)]
Number: TypeAlias = Annotated[int, Field(ge=0, le=_MOST_NUMBER)]


class HostedStatus(StrEnum):
    """What a runtime does, in the words of the hosted API."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ERROR = "error"


class PodStatus(StrEnum):
    """How far a runtime's sandbox is, in the words of the hosted API, which has a pod for each.

    Clients wait while it is `pending`, `running` (but not ready yet) or `not found`, and give up at `failed`,
    `unknown` and `crashloopbackoff`.
    """

    PENDING = "pending"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CRASH_LOOP = "crashloopbackoff"
    NOT_FOUND = "not found"


class PullPolicy(StrEnum):
    """When an image is fetched, in Kubernetes' words."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class RuntimeStart(Model):
    """What `POST /start` takes. What is left out, or null, is as the config has it, or else the image."""

    image: Annotated[str, WithJsonSchema(NAME)]
    command: Annotated[str | list[str] | None, WithJsonSchema({"anyOf": [_WORDS, COMMAND, {"type": "null"}]})] = Field(
        default=None,
        description="What runs in place of the image's entrypoint and command: a list, or words as a shell would read "
        "them. The port that the server listens on is that of its `--port`, or the number after `-m MODULE`.",
    )
    working_dir: Annotated[str | None, WithJsonSchema({"anyOf": [WORKING_DIRECTORY, {"type": "null"}]})] = None
    environment: Annotated[dict[str, str] | None, WithJsonSchema({"anyOf": [ENVIRONMENT, {"type": "null"}]})] = Field(
        default=None, repr=False
    )
    session_id: SessionId | None = Field(default=None, description="One is made if there is none: the `runtime_id`.")
    resource_factor: Literal[1, 2, 4, 8] | None = Field(
        default=None, description="Multiplies the config's memory and cpus."
    )
    runtime_class: Annotated[str | None, WithJsonSchema({"anyOf": [RUNTIME, {"type": "null"}]})] = Field(
        default=None, description="The engine's name of an OCI runtime that `[sandbox.allow] runtimes` has."
    )
    image_pull_policy: Annotated[PullPolicy, Field(strict=False)] | None = None
    run_as_user: Number | None = None
    run_as_group: Number | None = Field(
        default=None, description="With `run_as_user` only, and the same as `fs_group`."
    )
    fs_group: Number | None = Field(
        default=None, description="The group that the user and the workspace get. With `run_as_user` only."
    )


class RuntimeCommand(Model):
    """What `/pause`, `/resume` and `/stop` take."""

    runtime_id: Id


class RuntimeInfo(Model):
    """A runtime. `url` and `session_api_key` reach its agent server from the moment that its sandbox is launched."""

    runtime_id: str
    session_id: str
    url: str | None
    session_api_key: str | None = Field(repr=False)
    status: HostedStatus
    pod_status: PodStatus
    restart_count: int
    restart_reasons: list[str]
    pod_logs: str
    work_hosts: dict[str, int] = Field(description="Ports besides the agent server's, by their URLs: there are none.")


class RuntimeList(Model):
    """What `/list` answers."""

    runtimes: list[RuntimeInfo]


class ImageDetails(Model):
    """An image of the engine's host."""

    upload_time: str
    image_size_bytes: int


class ImageAnswer(Model):
    """What `/image_exists` answers."""

    exists: bool
    image: ImageDetails | None


class RegistryPrefix(Model):
    """What `/registry_prefix` answers."""

    registry_prefix: str
