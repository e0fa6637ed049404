"""What the host is asked to start: a plan in the words of the runtime API. Pure.

The host decides what the API has no words for: the workspace's place, the port (unless the command names it by
`--port`), the network, the limit of processes, and how much memory and CPU a factor of 1 is.
"""

import re
from typing import Final

from supervisor.conversation.errors import SandboxFailed
from supervisor.conversation.json import JsonObject
from supervisor.conversation.spec import PullPolicy, SandboxSpec
from supervisor.sandbox.port import SandboxPlan

_PULL: Final = {
    PullPolicy.ALWAYS: "Always",
    PullPolicy.MISSING: "IfNotPresent",
    PullPolicy.NEVER: "Never",
}
_FACTORS: Final = (1, 2, 4, 8)
_USER: Final = re.compile(r"([0-9]+)(?::([0-9]+))?")


def start_body(plan: SandboxPlan, session: str, memory: int) -> JsonObject:
    """The body of a start; `memory` is what the host gives a runtime whose factor is 1, in bytes.

    The keys of the agent server are among the variables: a host that has keys of its own puts them in their place, and
    tells them.

    Raises:
        SandboxFailed: the spec wants what no host can be asked for.
    """
    spec = plan.spec
    if spec.mounts:
        raise SandboxFailed("spec.mounts: a sandbox at a remote host sees no paths of this one")
    body: JsonObject = {
        "image": spec.image,
        "session_id": session,
        "environment": dict(plan.env),
        "image_pull_policy": _PULL[spec.pull],
        "command": [*(spec.entrypoint or ()), *(spec.command or ())] or None,
        "working_dir": spec.working_dir,
        "runtime_class": spec.runtime or None,
        "resource_factor": _factor(spec, memory),
        **_user(spec),
    }
    return {name: value for name, value in body.items() if value is not None}


def _factor(spec: SandboxSpec, memory: int) -> int | None:
    factor = next((factor for factor in _FACTORS if factor * memory >= spec.memory), None)
    if factor is None:
        raise SandboxFailed(
            f"spec.memory: {spec.memory} bytes are more than the host can be asked for, which is {_FACTORS[-1]} times "
            f"the {memory} bytes of [remote] memory"
        )
    return factor if factor > 1 else None


def _user(spec: SandboxSpec) -> JsonObject:
    if spec.user is None:
        return {}
    numbers = _USER.fullmatch(spec.user)
    if numbers is None:
        raise SandboxFailed(f"spec.user: a remote host knows users by their numbers only, not {spec.user!r}")
    user, group = numbers.groups()
    groups = {} if group is None else {"run_as_group": int(group), "fs_group": int(group)}
    return {"run_as_user": int(user), **groups}
