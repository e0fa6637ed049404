"""A sandbox from launch to removal, on a real engine."""

import docker
import pytest
import trio

from supervisor.conversation.errors import Conflict, ImageUnavailable, SandboxFailed
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.port import SandboxState
from tests.engine.sandboxes import C1, SERVE, SpecChanges, Workbench, get_when_ready

TRAP = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"


async def test_sandbox_lives_a_whole_life(bench: Workbench, provider: DockerProvider) -> None:
    """Launched, reached both ways, frozen, thawed, stopped and removed, and seen as it is each time."""
    view = await bench.launch(*SERVE, port=8000, network="bridge")
    assert view.name == provider.sandbox_name(C1, 1)
    assert view.state is SandboxState.RUNNING
    assert view.published is not None
    assert view.published.host == "127.0.0.1"
    assert view.direct is not None
    assert view.direct.port == 8000
    assert await get_when_ready(view.published) == b"HTTP/1.1 404 Not Found"
    assert await get_when_ready(view.direct) == b"HTTP/1.1 404 Not Found"
    await provider.pause(view.name)
    frozen = await provider.inspect(view.name)
    assert frozen is not None
    assert frozen.state is SandboxState.PAUSED
    await provider.unpause(view.name)
    assert await get_when_ready(view.published) == b"HTTP/1.1 404 Not Found"
    await provider.stop(view.name, 5)
    stopped = await provider.inspect(view.name)
    assert stopped is not None
    assert stopped.state is SandboxState.EXITED
    assert stopped.published is None
    await provider.remove(view.name)
    assert await provider.inspect(view.name) is None


async def test_direct_endpoint_refuses_while_nothing_listens(bench: Workbench) -> None:
    """Unlike the published one, which the engine's proxy accepts for nobody."""
    view = await bench.launch(port=8000, network="bridge")
    assert view.direct is not None
    with pytest.raises(OSError, match=r"refused|connect"):
        await trio.open_tcp_stream(view.direct.host, view.direct.port)


async def test_calls_are_safe_to_repeat(bench: Workbench, provider: DockerProvider) -> None:
    """Freezing, thawing, stopping, killing and removing twice is fine, and so is ending what is gone."""
    view = await bench.launch()
    for call in (provider.pause, provider.unpause, provider.kill, provider.remove):
        await call(view.name)
        await call(view.name)
    await provider.stop(view.name, 1)
    await provider.kill(view.name)
    assert await provider.logs(view.name, 10) == ()
    await provider.remove_workspace(C1)
    await provider.remove_workspace(C1)


async def test_launch_adopts_what_runs(bench: Workbench, provider: DockerProvider) -> None:
    """Launching twice, even at once, makes one container."""
    views = []

    async def launch() -> None:
        views.append(await bench.launch())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(launch)
    views.append(await bench.launch())
    assert len({view.id for view in views}) == 1
    assert [view.state for view in views] == [SandboxState.RUNNING] * 4
    assert len(await provider.list_owned()) == 1


@pytest.mark.parametrize("before", ["paused", "exited", "created"])
async def test_launch_starts_what_it_adopts(bench: Workbench, provider: DockerProvider, before: str) -> None:
    """A container of ours that does not run when it is adopted runs afterwards."""
    plan = bench.plan()
    first = await provider.launch(plan)
    if before == "paused":
        await provider.pause(first.name)
    elif before == "exited":
        await provider.kill(first.name)
    else:
        await provider.remove(first.name)
        labels = provider._containers.names.container_labels(C1, 1)
        body = {"Image": bench.image, "Cmd": ["sleep", "100"], "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
        await trio.to_thread.run_sync(lambda: bench.raw.create_container_from_config(body, first.name))  # type: ignore[no-untyped-call]  # stubs
    again = await provider.launch(plan)
    assert again.state is SandboxState.RUNNING
    assert (again.id == first.id) is (before != "created")


async def test_foreign_container_of_our_name_is_left_alone(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient
) -> None:
    """It is a conflict for a launch, it does not exist for the rest, and it runs on."""
    name = provider.sandbox_name(C1, 1)
    raw.create_container(bench.image, ["sleep", "1000"], name=name)
    try:
        raw.start(name)
        with pytest.raises(Conflict, match="not ours"):
            await bench.launch()
        await provider.kill(name)
        await provider.stop(name, 1)
        await provider.remove(name)
        with pytest.raises(SandboxFailed):
            await provider.pause(name)
        assert await provider.inspect(name) is None
        assert await provider.logs(name, 5) == ()
        assert await provider.list_owned() == []
        assert raw.inspect_container(name)["State"]["Status"] == "running"
    finally:
        raw.remove_container(name, force=True)


async def test_container_with_inherited_labels_is_not_listed(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient
) -> None:
    """An image that was committed from a sandbox hands its labels on; what runs from it is none of ours."""
    view = await bench.launch()
    labels = raw.inspect_container(view.name)["Config"]["Labels"]
    foreign = raw.create_container(bench.image, ["sleep", "1000"], labels=labels)["Id"]
    try:
        assert [owned.name for owned in await provider.list_owned()] == [view.name]
    finally:
        raw.remove_container(foreign, force=True)


async def test_list_owned_shows_every_state(bench: Workbench, provider: DockerProvider) -> None:
    """What runs, is frozen or has ended is listed with conversation and incarnation."""
    running, paused, ended = [await bench.launch(incarnation=number) for number in (1, 2, 3)]
    await provider.pause(paused.name)
    await provider.kill(ended.name)
    rows = {row.name: row for row in await provider.list_owned()}
    assert {row.incarnation: row.state for row in rows.values()} == {
        1: SandboxState.RUNNING,
        2: SandboxState.PAUSED,
        3: SandboxState.EXITED,
    }
    assert rows[running.name].conversation == C1


async def test_workspace_survives_the_sandbox(bench: Workbench, provider: DockerProvider) -> None:
    """What one incarnation wrote is there for the next one, until the workspace itself is removed."""
    await bench.run("echo kept >/workspace/file")
    with pytest.raises(Conflict, match="in use"):
        await provider.remove_workspace(C1)
    await provider.remove(provider.sandbox_name(C1, 1))
    assert await bench.run("cat /workspace/file", incarnation=2) == ["kept"]
    await provider.remove(provider.sandbox_name(C1, 2))
    await provider.remove_workspace(C1)
    assert await bench.run("ls /workspace", incarnation=3) == []


async def test_foreign_volume_of_our_name_is_left_alone(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient
) -> None:
    """Nobody else's volume becomes a workspace, and none is removed."""
    name = provider._containers.names.workspace(C1)
    raw.create_volume(name)
    try:
        with pytest.raises(Conflict, match="not ours"):
            await bench.launch()
        await provider.remove_workspace(C1)
        assert raw.inspect_volume(name)["Name"] == name
    finally:
        raw.remove_volume(name)


async def test_remove_takes_anonymous_volumes_along(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient
) -> None:
    """An image's own VOLUME would otherwise stay on the disk for ever."""
    made = raw.commit(
        raw.create_container(bench.image, ["true"], name=f"{bench.image[-12:]}-volume"), changes=["VOLUME /data"]
    )
    try:
        view = await bench.launch(image=made["Id"])
        mounts = raw.inspect_container(view.name)["Mounts"]
        anonymous = next(mount["Name"] for mount in mounts if mount["Destination"] == "/data")
        await provider.remove(view.name)
        with pytest.raises(docker.errors.NotFound):
            raw.inspect_volume(anonymous)
        assert raw.inspect_volume(provider._containers.names.workspace(C1))
    finally:
        raw.remove_container(f"{bench.image[-12:]}-volume")
        raw.remove_image(made["Id"])


async def test_stop_lets_a_program_end_by_itself(bench: Workbench, provider: DockerProvider) -> None:
    """The stop signal comes first, and its handler decides the exit code."""
    view = await bench.launch("sh", "-c", TRAP)
    await bench.wait_output(view.name, "ready")
    await provider.stop(view.name, 10)
    assert (await bench.wait_ended(view.name)).exit_code == 7


async def test_stop_of_a_frozen_sandbox_is_graceful_too(bench: Workbench, provider: DockerProvider) -> None:
    """The engine thaws it once the signal is sent, so its handler still runs."""
    view = await bench.launch("sh", "-c", TRAP)
    await bench.wait_output(view.name, "ready")
    await provider.pause(view.name)
    await provider.stop(view.name, 10)
    assert (await bench.wait_ended(view.name)).exit_code == 7


async def test_kill_ends_a_frozen_sandbox(bench: Workbench, provider: DockerProvider) -> None:
    """A sandbox that cannot run a handler dies all the same."""
    view = await bench.launch()
    await provider.pause(view.name)
    await provider.kill(view.name)
    ended = await bench.wait_ended(view.name)
    assert ended.exit_code == 137
    assert not ended.oom_killed


async def test_ended_sandbox_cannot_be_frozen_or_thawed(bench: Workbench, provider: DockerProvider) -> None:
    """Both say that it does not run."""
    view = await bench.launch()
    await provider.kill(view.name)
    with pytest.raises(SandboxFailed, match="not running"):
        await provider.pause(view.name)
    with pytest.raises(SandboxFailed, match="does not run"):
        await provider.unpause(view.name)


@pytest.mark.parametrize(("command", "exit_code"), [("/no/such/program", 127), ("/etc", 126)])
async def test_command_that_cannot_run_is_refused(
    bench: Workbench, provider: DockerProvider, command: str, exit_code: int
) -> None:
    """The engine's words and the shell's code for it; nothing half-made is left."""
    with pytest.raises(SandboxFailed, match="refuses") as failure:
        await bench.launch(command, init=False)
    assert failure.value.exit_code == exit_code
    assert await provider.list_owned() == []


async def test_missing_command_under_init_ends_with_its_code(bench: Workbench) -> None:
    """With an init the engine starts that one gladly; the code tells then."""
    view = await bench.launch("/no/such/program")
    assert (await bench.wait_ended(view.name)).exit_code == 127


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"memory": 1024}, "memory"), ({"network": "no-such-network"}, "network"), ({"workspace": "/"}, "mount")],
)
async def test_limits_that_the_engine_refuses_fail_in_its_words(
    bench: Workbench, provider: DockerProvider, changes: SpecChanges, words: str
) -> None:
    """A bad spec fails at once and leaves nothing."""
    with pytest.raises(SandboxFailed, match=f"(?i){words}"):
        await bench.launch(**changes)
    assert await provider.list_owned() == []


async def test_more_cores_than_the_host_has_are_fine(bench: Workbench) -> None:
    """The spec of a bigger host gets what there is."""
    assert (await bench.launch(cpus=1000.0)).state is SandboxState.RUNNING


async def test_missing_image_is_told_apart(bench: Workbench) -> None:
    """An image that went away between its check and the launch."""
    with pytest.raises(ImageUnavailable):
        await bench.launch(image="conversationd-tests/no-such-image:1")


async def test_workspace_that_is_removed_before_its_container_is_made_is_made_as_ours(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the engine, which makes what a container mounts: without our labels we would take it for a stranger's."""
    monkeypatch.setattr(Containers, "_claim_workspace", lambda *_: None)
    view = await bench.launch()
    names = provider._containers.names
    assert raw.inspect_volume(names.workspace(C1))["Labels"] == names.workspace_labels(C1)
    await provider.remove(view.name)
    await provider.remove_workspace(C1)
    assert await provider.list_workspaces() == []
