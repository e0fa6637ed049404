"""What the sandbox port promises of real processes, on every provider that has some."""

import secrets
from typing import Final

import attrs
import pytest
import trio

from supervisor.conversation.errors import SandboxFailed
from supervisor.sandbox.port import OwnedSandbox, SandboxPlan, SandboxProvider, SandboxState, SandboxView
from tests.conformance.benches.bench import C1, RealBench, plan_script
from tests.conformance.test_sandbox_port import PATIENCE, state_of, until_ended
from tests.process_host import command_lines

COUNTS: Final = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"
SLEEPS: Final = "exec sleep 1000"


async def last_lines(bench: RealBench, name: str, least: int) -> list[str]:
    """All lines of its output, as soon as there are so many."""
    with trio.fail_after(PATIENCE):
        while True:
            lines = await bench.provider.logs(name, 10_000)
            if len(lines) >= least:
                return list(lines)
            await trio.sleep(0.01)


async def ends_with(bench: RealBench, plan: SandboxPlan) -> int | None:
    """The exit code of what ends by itself, or cannot even be begun."""
    await trio.lowlevel.checkpoint()
    try:
        view = await bench.provider.launch(plan)
    except SandboxFailed as error:
        return error.exit_code
    return (await until_ended(bench, view.name)).exit_code


async def seen_by(provider: SandboxProvider, name: str) -> tuple[str, SandboxState, int | None]:
    """What a provider shows of a sandbox, as far as it needs no more than one look."""
    view = await provider.inspect(name)
    assert view is not None
    return view.id, view.state, view.exit_code


async def test_a_paused_sandbox_stands_still(real_bench: RealBench) -> None:
    """It counts no further while its neighbour does, and then goes on with the very next number."""
    paused = (await real_bench.provider.launch(plan_script(real_bench, COUNTS, 1))).name
    other = (await real_bench.provider.launch(plan_script(real_bench, COUNTS, 2))).name
    await last_lines(real_bench, paused, 3)
    await real_bench.provider.pause(paused)
    # What it has written reaches the log a moment later, where a keeper or an engine copies it.
    await last_lines(real_bench, other, len(await last_lines(real_bench, other, 1)) + 5)
    before = await last_lines(real_bench, paused, 3)
    await last_lines(real_bench, other, len(await last_lines(real_bench, other, 1)) + 20)
    assert await last_lines(real_bench, paused, 3) == before
    await real_bench.provider.unpause(paused)
    after = await last_lines(real_bench, paused, len(before) + 3)
    assert after == [str(number + 1) for number in range(len(after))]


async def test_logs_are_the_last_lines(real_bench: RealBench) -> None:
    """As many as asked for, oldest first, of both streams; all of them if there are fewer."""
    name = (await real_bench.provider.launch(plan_script(real_bench, "echo 1; echo 2 >&2; echo 3; printf 4"))).name
    await until_ended(real_bench, name)
    assert (await real_bench.provider.logs(name, 2))[-1] == "4"
    assert sorted(await real_bench.provider.logs(name, 10)) == ["1", "2", "3", "4"]
    assert len(await real_bench.provider.logs(name, 2)) == 2


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill $$; wait", 143)])
async def test_every_kind_of_end_has_its_code(real_bench: RealBench, script: str, code: int) -> None:
    """A program's own code, and 128 and the number of the signal that ended it."""
    assert await ends_with(real_bench, plan_script(real_bench, f"sh -c '{script}'; exit $?")) == code


async def test_running_out_of_memory_is_told(real_bench: RealBench) -> None:
    """What needs more than its limit is killed, and known to be so; a provider without limits cautions."""
    plan = plan_script(real_bench, "exec tail /dev/zero" if "memory" not in real_bench.provider.caution else "exit 137")
    view = await until_ended(real_bench, (await real_bench.provider.launch(plan)).name)
    assert (view.exit_code, view.oom_killed) == (137, "memory" not in real_bench.provider.caution)


async def test_stop_lets_it_end_by_itself(real_bench: RealBench) -> None:
    """The stop signal comes first, and what handles it ends with a code of its own."""
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done"
    name = (await real_bench.provider.launch(plan_script(real_bench, script))).name
    await last_lines(real_bench, name, 1)
    await real_bench.provider.stop(name, PATIENCE)
    assert (await until_ended(real_bench, name)).exit_code == 42


async def test_stop_ends_what_does_not_listen(real_bench: RealBench) -> None:
    """After the grace period by SIGKILL."""
    script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
    name = (await real_bench.provider.launch(plan_script(real_bench, script))).name
    await last_lines(real_bench, name, 1)
    await real_bench.provider.stop(name, 0.2)
    assert (await until_ended(real_bench, name)).exit_code == 137


async def test_a_frozen_one_is_removed(real_bench: RealBench) -> None:
    """By force, with all that was in it; with its workspace nothing is left at all."""
    name = (await real_bench.provider.launch(plan_script(real_bench, f"sleep 1000 & {SLEEPS}"))).name
    await real_bench.provider.pause(name)
    await real_bench.provider.remove(name)
    assert await real_bench.provider.inspect(name) is None
    await real_bench.provider.remove_workspace(C1)
    assert real_bench.remains() == []


async def test_a_second_provider_finds_all_of_the_first(real_bench: RealBench) -> None:
    """A daemon that was started again knows each by its name, with its state and exit code, and goes on with it."""
    launched: list[SandboxView] = []
    for incarnation, script in ((1, SLEEPS), (2, SLEEPS), (3, "exit 3")):
        launched.append(await real_bench.provider.launch(plan_script(real_bench, script, incarnation)))
    await real_bench.provider.pause(launched[1].name)
    ended = await until_ended(real_bench, launched[2].name)
    states = (SandboxState.RUNNING, SandboxState.PAUSED, SandboxState.EXITED)
    async with real_bench.another() as again:
        assert sorted(await again.list_owned(), key=lambda owned: owned.incarnation) == [
            OwnedSandbox(view.name, C1, number, state)
            for number, (view, state) in enumerate(zip(launched, states, strict=True), 1)
        ]
        assert [await seen_by(again, view.name) for view in (launched[0], ended)] == [
            (launched[0].id, SandboxState.RUNNING, None),
            (ended.id, SandboxState.EXITED, 3),
        ]
        await again.unpause(launched[1].name)
        assert await state_of(real_bench, launched[1].name) is SandboxState.RUNNING
        assert (await again.launch(plan_script(real_bench, SLEEPS, 1))).id == launched[0].id


async def test_launches_at_once_make_one_sandbox(real_bench: RealBench) -> None:
    """Whoever asks while it is being made gets the one that is made."""
    views: list[SandboxView] = []

    async def launch() -> None:
        views.append(await real_bench.provider.launch(plan_script(real_bench, SLEEPS)))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(launch)
    assert len({view.id for view in views}) == 1
    assert len(await real_bench.provider.list_owned()) == 1


async def test_launching_an_ended_one_starts_it_again(real_bench: RealBench) -> None:
    """The one of this name is there, and has to run."""
    plan = plan_script(real_bench, SLEEPS)
    name = (await real_bench.provider.launch(plan)).name
    await real_bench.provider.kill(name)
    await until_ended(real_bench, name)
    again = await real_bench.provider.launch(plan)
    assert (again.name, again.state, again.exit_code) == (name, SandboxState.RUNNING, None)


async def test_secrets_reach_it_and_nobody_else(real_bench: RealBench) -> None:
    """Its environment has them, and no process's command line."""
    secret = secrets.token_hex(16)
    name = (await real_bench.provider.launch(plan_script(real_bench, f'echo "$TOKEN"; {SLEEPS}', TOKEN=secret))).name
    assert await last_lines(real_bench, name, 1) == [secret]
    assert [line for line in command_lines() if secret in line] == []


async def test_the_workspace_outlives_the_sandbox(real_bench: RealBench) -> None:
    """The next incarnation finds what the last one left; once it is removed there is a new one."""
    workspace = real_bench.provider.workspace(C1, real_bench.plan().spec)
    script = f"cd {workspace}; test -e kept && echo found || echo new; touch kept"
    seen: list[str] = []
    for incarnation in (1, 2, 3):
        name = (await real_bench.provider.launch(plan_script(real_bench, script, incarnation))).name
        await until_ended(real_bench, name)
        seen += await real_bench.provider.logs(name, 1)
        await real_bench.provider.remove(name)
        if incarnation == 2:
            await real_bench.provider.remove_workspace(C1)
    assert seen == ["new", "found", "new"]


@pytest.mark.parametrize(("command", "code"), [("no-such-program", 127), ("/proc/version", 126)])
@pytest.mark.parametrize("init", [False, True])
async def test_a_command_that_cannot_be_run_has_its_code(
    real_bench: RealBench, command: str, code: int, init: bool
) -> None:
    """As a shell has it: 127 for what is not found, 126 for what is not executable."""
    plan = real_bench.plan()
    assert (
        await ends_with(real_bench, attrs.evolve(plan, spec=attrs.evolve(plan.spec, command=(command,), init=init)))
        == code
    )
