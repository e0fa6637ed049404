"""Sandbox specs: a caller's overrides over the config's defaults, within the allowance."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.errors import Forbidden
from supervisor.conversation.spec import Allowance, Mount, PullPolicy, SandboxSpec, SpecOverrides, resolve_spec

GIB = 1024**3
DEFAULTS = SandboxSpec(
    provider="docker",
    image="agent:1",
    pull=PullPolicy.MISSING,
    command=None,
    env={"A": "default", "B": "default"},
    port=8000,
    user=None,
    workspace="/workspace",
    memory=4 * GIB,
    cpus=2.0,
    pids_limit=1024,
    network="bridge",
    init=True,
)
NOTHING = Allowance(images=(), env=(), memory=1, cpus=0.01, pids_limit=1)

names = st.from_regex(r"[a-zA-Z0-9./:_-]{1,12}", fullmatch=True)
overrides = st.builds(
    SpecOverrides,
    provider=st.none() | names,
    image=st.none() | names,
    pull=st.none() | st.sampled_from(PullPolicy),
    command=st.none() | st.lists(names, max_size=3).map(tuple),
    env=st.none() | st.dictionaries(names, names, max_size=3),
    port=st.none() | st.integers(1, 65535),
    user=st.none() | names,
    workspace=st.none() | names,
    memory=st.none() | st.integers(1, 32 * GIB),
    cpus=st.none() | st.floats(0.01, 32),
    pids_limit=st.none() | st.integers(1, 8192),
    network=st.none() | names,
    init=st.none() | st.booleans(),
    entrypoint=st.none() | st.lists(names, max_size=3).map(tuple),
    working_dir=st.none() | names,
    runtime=st.none() | names,
    mounts=st.none() | st.lists(st.builds(Mount, source=names, target=names), max_size=2).map(tuple),
)


def test_resolve_spec_without_overrides_is_the_default() -> None:
    """Who asks for nothing gets the config's sandbox, whatever the allowance is."""
    assert resolve_spec(DEFAULTS, SpecOverrides(), NOTHING) == DEFAULTS


def test_resolve_spec_replaces_what_was_given_and_merges_env() -> None:
    """Given keys win, variables are added one by one, everything else stays."""
    given_keys = SpecOverrides(
        command=("sh",), env={"B": "mine", "C": "mine"}, port=9, user="1", workspace="/w", memory=GIB, init=False
    )
    assert resolve_spec(DEFAULTS, given_keys, Allowance()) == attrs.evolve(
        DEFAULTS,
        command=("sh",),
        env={"A": "default", "B": "mine", "C": "mine"},
        port=9,
        user="1",
        workspace="/w",
        memory=GIB,
        init=False,
    )


def test_resolve_spec_leaves_the_defaults_untouched() -> None:
    """One conversation's variables never reach another's."""
    resolve_spec(DEFAULTS, SpecOverrides(env={"A": "mine"}), Allowance())
    assert DEFAULTS.env == {"A": "default", "B": "default"}


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (SpecOverrides(image="other:1"), "spec.image"),
        (SpecOverrides(network="host"), "spec.network"),
        (SpecOverrides(provider="other"), "spec.provider"),
        (SpecOverrides(runtime="runsc"), "spec.runtime"),
        (SpecOverrides(pull=PullPolicy.ALWAYS), "spec.pull"),
        (SpecOverrides(env={"LD_PRELOAD": "x"}), "spec.env.LD_PRELOAD"),
        (SpecOverrides(memory=2), "spec.memory"),
        (SpecOverrides(cpus=1.0), "spec.cpus"),
        (SpecOverrides(pids_limit=2), "spec.pids_limit"),
        (SpecOverrides(mounts=(Mount("/srv", "/srv"),)), "spec.mounts[0]"),
    ],
)
def test_resolve_spec_refuses_what_is_not_allowed_by_its_path(asked: SpecOverrides, path: str) -> None:
    """Every kind of override has its limit, and the error names the parameter."""
    with pytest.raises(Forbidden) as caught:
        resolve_spec(DEFAULTS, asked, NOTHING)
    assert caught.value.path == path
    assert path in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        SpecOverrides(image=DEFAULTS.image),
        SpecOverrides(network=DEFAULTS.network),
        SpecOverrides(provider=DEFAULTS.provider),
        SpecOverrides(runtime=DEFAULTS.runtime),
        SpecOverrides(pull=DEFAULTS.pull),
    ],
)
def test_resolve_spec_takes_the_default_that_is_asked_for_by_name(asked: SpecOverrides) -> None:
    """To spell out the config's own choice needs no permission, and changes nothing."""
    assert resolve_spec(DEFAULTS, asked, NOTHING) == DEFAULTS


def test_resolve_spec_takes_a_runtime_that_the_allowance_names_and_no_other() -> None:
    """A weaker one than the config's is none either, and the refusal says what an operator can do."""
    defaults, allow = attrs.evolve(DEFAULTS, runtime="runsc"), Allowance(runtimes=("kata-*",))
    assert resolve_spec(defaults, SpecOverrides(runtime="kata-qemu"), allow).runtime == "kata-qemu"
    for other in ("runc", ""):
        with pytest.raises(Forbidden, match=r"\[sandbox.allow\] runtimes .* daemon.json"):
            resolve_spec(defaults, SpecOverrides(runtime=other), allow)


def test_resolve_spec_takes_nothing_for_none_of_them() -> None:
    """So a caller gets the image's own where the config has something else."""
    defaults = attrs.evolve(DEFAULTS, user="1", command=("sh",), entrypoint=("/init",), working_dir="/srv")
    nothing = SpecOverrides(port=0, user="", command=(), entrypoint=(), working_dir="")
    assert resolve_spec(defaults, nothing, Allowance()) == attrs.evolve(DEFAULTS, port=None)


@pytest.mark.parametrize("pull", [None, PullPolicy.MISSING, PullPolicy.NEVER])
def test_resolve_spec_does_not_fetch_an_image_that_a_caller_chose(pull: PullPolicy | None) -> None:
    """By default any image of the host may be used and none fetched."""
    assert resolve_spec(DEFAULTS, SpecOverrides(image="other:1", pull=pull), Allowance()).pull is PullPolicy.NEVER


def test_resolve_spec_fetches_a_chosen_image_that_the_allowance_names() -> None:
    """`allow.pull` gives callers the registry for matching images."""
    allow = Allowance(pull=("ghcr.io/acme/*",))
    asked = SpecOverrides(image="ghcr.io/acme/agent:2")
    assert resolve_spec(DEFAULTS, asked, allow).pull is PullPolicy.MISSING
    always = attrs.evolve(asked, pull=PullPolicy.ALWAYS)
    assert resolve_spec(DEFAULTS, always, allow).pull is PullPolicy.ALWAYS


def test_resolve_spec_lets_a_caller_repeat_a_default_that_always_pulls() -> None:
    """Where the config itself pulls always, asking for it is no request of its own."""
    defaults = attrs.evolve(DEFAULTS, pull=PullPolicy.ALWAYS)
    assert resolve_spec(defaults, SpecOverrides(pull=PullPolicy.ALWAYS), NOTHING) == defaults


@pytest.mark.parametrize("source", ["/srv/data/../../etc", "/srv/data/..", "/etc", "/srv/database"])
def test_resolve_spec_refuses_a_mount_beyond_its_pattern(source: str) -> None:
    """A path that climbs out of what is allowed is not allowed, though its text matches."""
    with pytest.raises(Forbidden, match=r"spec\.mounts\[1\]"):
        resolve_spec(
            DEFAULTS,
            SpecOverrides(mounts=(Mount("/srv/data/a", "/a"), Mount(source, "/b"))),
            Allowance(mounts=("/srv/data/*",)),
        )


def test_resolve_spec_takes_a_mount_that_matches() -> None:
    """A path below an allowed one is mounted as it was asked for."""
    mounts = (Mount("/srv/data/a", "/a", read_only=False),)
    assert resolve_spec(DEFAULTS, SpecOverrides(mounts=mounts), Allowance(mounts=("/srv/data/*",))).mounts == mounts


def test_resolve_spec_takes_limits_up_to_the_allowance_itself() -> None:
    """An upper limit is inclusive."""
    asked = SpecOverrides(memory=GIB, cpus=1.5, pids_limit=10)
    allow = Allowance(memory=GIB, cpus=1.5, pids_limit=10)
    spec = resolve_spec(DEFAULTS, asked, allow)
    assert (spec.memory, spec.cpus, spec.pids_limit) == (GIB, 1.5, 10)


@given(overrides)
def test_resolve_spec_never_exceeds_the_allowance(asked: SpecOverrides) -> None:
    """Whatever is asked for, what comes out is the default or allowed."""
    allow = Allowance(images=("a*",), env=("X*",), networks=("n*",), mounts=("/srv/*",), pull=("ab*",))
    try:
        spec = resolve_spec(DEFAULTS, asked, allow)
    except Forbidden:
        return
    assert spec.image == DEFAULTS.image or spec.image.startswith("a")
    assert spec.network == DEFAULTS.network or spec.network.startswith("n")
    assert spec.provider == DEFAULTS.provider
    assert spec.memory <= max(allow.memory, DEFAULTS.memory)
    assert spec.cpus <= max(allow.cpus, DEFAULTS.cpus)
    assert spec.pids_limit <= max(allow.pids_limit, DEFAULTS.pids_limit)
    assert all(mount.source.startswith("/srv/") for mount in spec.mounts)
    assert all(name.startswith("X") for name in spec.env.keys() - DEFAULTS.env.keys())
    assert spec.image == DEFAULTS.image or spec.image.startswith("ab") or spec.pull is PullPolicy.NEVER
