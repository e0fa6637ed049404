"""A caller's `spec`: JSON in, typed overrides out, and no way to make the parser stumble."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.json import JsonObject
from supervisor.conversation.parse import InvalidSpec, parse_mount, parse_overrides
from supervisor.conversation.spec import Mount, PullPolicy, SpecOverrides
from supervisor.conversation.strict import NotAllowed

json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["image", "pull", "command", "env", "port", "user", "memory", "cpus", "init", "mounts", "network", "imge"]


def test_parse_overrides_reads_every_key() -> None:
    """Every key of `[sandbox]` may be given, in the same notation."""
    spec: JsonObject = {
        "provider": "docker",
        "image": "busybox:1",
        "pull": "never",
        "command": ["sh", "-c", ""],
        "env": {"A": "1", "EMPTY": ""},
        "port": 80,
        "user": "1000:1000",
        "workspace": "/w",
        "memory": "2GiB",
        "cpus": 1,
        "pids_limit": 5,
        "network": "bridge",
        "init": False,
        "mounts": ["/a:/b", "/c:/d:rw"],
        "entrypoint": ["/init"],
        "working_dir": "/",
        "runtime": "runsc",
    }
    assert parse_overrides(spec) == SpecOverrides(
        provider="docker",
        image="busybox:1",
        pull=PullPolicy.NEVER,
        command=("sh", "-c", ""),
        env={"A": "1", "EMPTY": ""},
        port=80,
        user="1000:1000",
        workspace="/w",
        memory=2 * 1024**3,
        cpus=1.0,
        pids_limit=5,
        network="bridge",
        init=False,
        mounts=(Mount("/a", "/b"), Mount("/c", "/d", read_only=False)),
        entrypoint=("/init",),
        working_dir="/",
        runtime="runsc",
    )


def test_parse_overrides_takes_bytes_and_leaves_out_null() -> None:
    """Memory may be a number of bytes, and null is the same as no key."""
    assert parse_overrides({"memory": 8 * 1024**2, "image": None}) == SpecOverrides(memory=8 * 1024**2)
    assert parse_overrides({}) == SpecOverrides()


def test_parse_overrides_takes_nothing_for_none_of_them() -> None:
    """Where a caller wants the image's, or the engine's, own."""
    nothing: JsonObject = {"working_dir": "", "runtime": "", "entrypoint": []}
    assert parse_overrides(nothing) == SpecOverrides(working_dir="", runtime="", entrypoint=())


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"imge": "x"}, "spec.imge", "did you mean image?"),
        ({"image": ""}, "spec.image", "must be a name without spaces"),
        ({"memory": "2G"}, "spec.memory", 'write it like "2GiB"'),
        ({"memory": 0}, "spec.memory", "must be from 6MiB"),
        ({"memory": True}, "spec.memory", "true is no size"),
        ({"cpus": 0}, "spec.cpus", "must be a number from 0.01 to 1024, not 0"),
        ({"pids_limit": -1}, "spec.pids_limit", "from 1 to"),
        ({"pids_limit": 0}, "spec.pids_limit", "from 1 to"),
        ({"port": 65536}, "spec.port", "from 0 to 65535"),
        ({"workspace": "w"}, "spec.workspace", "must be an absolute path"),
        ({"working_dir": "w"}, "spec.working_dir", "must be an absolute path"),
        ({"working_dir": "/a/../b"}, "spec.working_dir", "must be an absolute path"),
        ({"runtime": "a b"}, "spec.runtime", "must be a name like"),
        ({"runtime": 1}, "spec.runtime", "must be a string"),
        ({"entrypoint": "sh"}, "spec.entrypoint", "must be a list"),
        ({"command": "ls -l"}, "spec.command", "must be a list"),
        ({"command": ["ls", 1]}, "spec.command[1]", "must be a string"),
        ({"mounts": ["/a:/b", "/c"]}, "spec.mounts[1]", "is no mount"),
        ({"env": {"A=B": "x"}}, "spec.env", "is no name of a variable"),
        ({"env": {"": "x"}}, "spec.env", "is no name of a variable"),
        ({"init": "no"}, "spec.init", "must be true or false"),
        ({"pull": "sometimes"}, "spec.pull", "must be one of 'missing', 'always', 'never'"),
    ],
)
def test_parse_overrides_names_the_bad_parameter(spec: JsonObject, path: str, message: str) -> None:
    """The error has the path for `data.path` and says what is allowed there."""
    with pytest.raises(InvalidSpec) as caught:
        parse_overrides(spec)
    assert caught.value.path == path
    assert message in caught.value.message
    assert str(caught.value) == f"{path}: {caught.value.message}"


@pytest.mark.parametrize("value", [None, 5, "spec", []])
def test_parse_overrides_refuses_what_is_no_object(value: JsonObject) -> None:
    """A `spec` of another type is an error of the parameter itself."""
    with pytest.raises(InvalidSpec, match=r"^spec: must be a table of keys"):
        parse_overrides(value)


def test_parse_overrides_never_shows_the_value_of_a_variable() -> None:
    """A secret that was given in the wrong type or place does not come back in the error."""
    with pytest.raises(InvalidSpec) as caught:
        parse_overrides({"env": {"KEY": ["hunter2"], "OTHER": "hunter2\0"}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["", "/a", "/a:", ":/a", "a:/b", "/a:b", "/a:/", "/a:/b:", "/a:/b:wr", "/a:/b:ro:z", "/a/../b:/c", "/a:/b/.."],
)
def test_parse_mount_refuses_what_is_no_mount(value: str) -> None:
    """The error shows how a mount is written."""
    with pytest.raises(NotAllowed, match='is no mount; write it like "/srv/data:/data" or "/srv/data:/data:rw"'):
        parse_mount(value)


def test_parse_mount_is_read_only_unless_told_otherwise() -> None:
    """Writing to the host has to be asked for."""
    assert parse_mount("/a:/b") == parse_mount("/a:/b:ro") == Mount("/a", "/b", read_only=True)
    assert parse_mount("/a:/b:rw") == Mount("/a", "/b", read_only=False)


@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
def test_parse_overrides_answers_any_json_with_overrides_or_a_path(spec: JsonObject) -> None:
    """No JSON at all makes the parser raise anything but `InvalidSpec`."""
    try:
        outcome: SpecOverrides | InvalidSpec = parse_overrides(spec)
    except InvalidSpec as error:
        outcome = error
    if isinstance(outcome, InvalidSpec):
        assert outcome.path.startswith("spec")
        assert outcome.message
    else:
        assert outcome.memory is None or outcome.memory >= 6 * 1024**2
