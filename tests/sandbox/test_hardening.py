"""The body of the create call, without an engine."""

from collections.abc import Mapping
from typing import Any, cast

import attrs
import pytest

from supervisor.conversation.errors import Forbidden
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import Mount, PullPolicy, SandboxSpec
from supervisor.sandbox.docker.hardening import create_body
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.port import SandboxPlan

SPEC = SandboxSpec(
    provider="docker",
    image="tiny",
    pull=PullPolicy.NEVER,
    command=("serve", "it"),
    env={},
    port=8000,
    user="1000",
    workspace="/workspace",
    memory=1024**3,
    cpus=1.5,
    pids_limit=64,
    network="bridge",
    init=True,
)
NAMES = Names("0123456789abcdef")


def body(spec: SandboxSpec, cores: int = 4) -> Mapping[str, Any]:
    """The body for a spec."""
    plan = SandboxPlan(ConversationId("c1"), 2, spec, {"KEY": "value"})
    return cast("Mapping[str, Any]", create_body(plan, NAMES, cores, ("/var/run/docker.sock", "/srv/engine.sock")))


def test_create_body_is_hardened() -> None:
    """Nothing that confines a sandbox is left to the engine's defaults."""
    host = body(SPEC)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert host["Memory"] == host["MemorySwap"] == 1024**3
    assert host["PidsLimit"] == 64
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["Privileged"] is False
    assert host["Init"] is True


def test_create_body_carries_the_plan() -> None:
    """Command, user, environment, labels and workspace."""
    made = body(SPEC)
    assert made["Cmd"] == ["serve", "it"]
    assert made["User"] == "1000"
    assert made["Env"] == ["KEY=value"]
    assert made["Labels"] == {
        "io.conversationd.owner": "0123456789abcdef",
        "io.conversationd.conversation": "c1",
        "io.conversationd.incarnation": "2",
        "io.conversationd.invocation": NAMES.invocation,
    }
    labels = {"io.conversationd.owner": NAMES.owner, "io.conversationd.conversation": "c1"}
    workspace = {
        "Type": "volume",
        "Source": "conversationd-01234567-c1",
        "Target": "/workspace",
        "VolumeOptions": {"Labels": labels},
    }
    assert made["HostConfig"]["Mounts"] == [workspace]


def test_create_body_leaves_the_images_own_command_and_user() -> None:
    """What the spec does not say is the image's, and what runs it is the engine's."""
    made = body(attrs.evolve(SPEC, command=None, user=None))
    assert {"Cmd", "User", "Entrypoint", "WorkingDir"}.isdisjoint(made)
    assert "Runtime" not in made["HostConfig"]


def test_create_body_has_what_the_spec_puts_in_the_images_place() -> None:
    """An entrypoint, a directory, and a runtime."""
    made = body(attrs.evolve(SPEC, entrypoint=("/init", "-x"), working_dir="/", runtime="runsc"))
    assert (made["Entrypoint"], made["WorkingDir"], made["HostConfig"]["Runtime"]) == (["/init", "-x"], "/", "runsc")


def test_port_is_published_on_loopback_only() -> None:
    """The engine picks the host's port."""
    made = body(SPEC)
    assert made["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert made["ExposedPorts"] == {"8000/tcp": {}}


@pytest.mark.parametrize("spec", [attrs.evolve(SPEC, port=None), attrs.evolve(SPEC, network="none")])
def test_no_port_is_published_without_port_or_network(spec: SandboxSpec) -> None:
    """Neither a spec without a port nor a sandbox without a network publishes anything."""
    made = body(spec)
    assert made["HostConfig"]["PortBindings"] == {}
    assert made["ExposedPorts"] == {}


@pytest.mark.parametrize(
    ("cpus", "cores", "nano"), [(1.5, 4, 1_500_000_000), (8, 2, 2_000_000_000), (0, 2, 10_000_000)]
)
def test_cores_are_clamped_to_what_the_host_has(cpus: float, cores: int, nano: int) -> None:
    """Engines refuse more than that, and less than a hundredth."""
    assert body(attrs.evolve(SPEC, cpus=cpus), cores)["HostConfig"]["NanoCpus"] == nano


@pytest.mark.parametrize("network", ["host", "container:other"])
def test_shared_networks_are_forbidden(network: str) -> None:
    """A sandbox has a network namespace of its own."""
    with pytest.raises(Forbidden) as refusal:
        body(attrs.evolve(SPEC, network=network))
    assert refusal.value.path == "spec.network"


@pytest.mark.parametrize("source", ["/var/run/docker.sock", "/var/run/", "/", "/srv/x/../engine.sock", "/srv"])
def test_mounts_that_show_an_engine_are_forbidden(source: str) -> None:
    """The socket itself, a directory above it, and ways around."""
    mounts = (Mount("/home", "/a"), Mount(source, "/b"))
    with pytest.raises(Forbidden) as refusal:
        body(attrs.evolve(SPEC, mounts=mounts))
    assert refusal.value.path == "spec.mounts[1]"


def test_other_mounts_are_made_as_asked() -> None:
    """A path beside a socket is fine, read-only unless it says otherwise."""
    mounts = (Mount("/srv/data", "/data"), Mount("/srv/out", "/out", read_only=False))
    assert body(attrs.evolve(SPEC, mounts=mounts))["HostConfig"]["Mounts"][1:] == [
        {"Type": "bind", "Source": "/srv/data", "Target": "/data", "ReadOnly": True},
        {"Type": "bind", "Source": "/srv/out", "Target": "/out", "ReadOnly": False},
    ]
