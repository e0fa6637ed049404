"""The options of `start`, and the request that they make."""

import os
from collections.abc import Sequence
from typing import Final

import attrs

from supervisor.cli.asks import Boot, Request
from supervisor.cli.options import read_command, read_environment, read_pairs
from supervisor.conversation.ids import new_conversation_id
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.spec import PullPolicy

PULL_POLICIES: Final = [str(policy) for policy in PullPolicy]


@attrs.frozen
class SpecOptions:
    """The options that make the `spec`: those that are given replace what `--spec` says."""

    provider: str | None = None
    image: str | None = None
    command: Sequence[str] = ()
    env: Sequence[str] = ()
    port: int | None = None
    memory: str | None = None
    cpus: float | None = None
    user: str | None = None
    network: str | None = None
    mounts: Sequence[str] = ()
    pull: str | None = None


def make_spec(base: JsonObject | None, options: SpecOptions) -> JsonObject | None:
    """Lay the options over `--spec`; variables are added to its own. None if nothing is asked for.

    Raises:
        UsageError: an option is not written as it has to be.
    """
    given: dict[str, JsonValue] = {
        "provider": options.provider,
        "image": options.image,
        "command": read_command(options.command),
        "port": options.port,
        "memory": options.memory,
        "cpus": options.cpus,
        "user": options.user,
        "network": options.network,
        "mounts": list(options.mounts) or None,
        "pull": options.pull,
    }
    env = read_environment(options.env, os.environ)
    if env:
        known = (base or {}).get("env")
        given["env"] = {**known, **env} if isinstance(known, dict) else env
    spec = {**(base or {}), **{name: value for name, value in given.items() if value is not None}}
    return spec or None


def make_start(
    conversation: str | None,
    *,
    agent: str | None,
    spec: JsonObject | None,
    request: JsonObject | None,
    labels: Sequence[str],
    wait: bool,
    timeout: float | None,
    idempotency_key: str | None,
) -> Request:
    """Make the request; where no id is given one is chosen here, so that its events can be followed from the first.

    Raises:
        UsageError: a label is not `KEY=VALUE`.
    """
    target = conversation or new_conversation_id()
    params: JsonObject = {
        "id": target,
        "agent": agent,
        "spec": spec,
        "request": request,
        "labels": read_pairs(labels, "--label") or None,
        "wait": wait,
        "timeout": timeout,
        "idempotency_key": idempotency_key,
    }
    return (Boot if wait else Request)("conversation.start", params, target)
