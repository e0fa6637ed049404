"""The config file: its defaults, every key, and errors that a person can act on."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.actors.settings import ActorSettings
from supervisor.alerts import AlertSettings, WebhookSettings
from supervisor.config import Config, OnShutdown, SandboxConfig
from supervisor.config_file import ENVIRONMENT_VARIABLE, ConfigError, load_config, parse_config
from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.conversation.alerts import AlertKind
from supervisor.conversation.restart import RestartMode
from supervisor.conversation.spec import Allowance, Mount, PullPolicy, SpecOverrides
from supervisor.logs import LogFormat, LogLevel

EXAMPLE = Path(__file__).parent.parent / "config" / "conversationd.toml"
FILE = Path("/etc/x.toml")


def _keys(table: type[attrs.AttrsInstance], above: str = "") -> Iterator[str]:
    for field in attrs.fields(table):
        if field.type is SandboxConfig:
            yield from _keys(SpecOverrides, "sandbox.")
            yield from _keys(Allowance, "sandbox.allow.")
        elif attrs.has(field.type):
            yield from _keys(field.type, f"{above}{field.name}.")
        else:
            yield above + field.name


def _leaves(table: Mapping[str, object], above: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict) and f"{above}{key}" != "sandbox.env":
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield above + key


def _errors(content: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(content.encode(), FILE)
    return str(caught.value).splitlines()


def test_example_file_is_exactly_the_built_in_defaults() -> None:
    """What the file shows as a default is one."""
    assert load_config(EXAMPLE, {}) == Config()


def test_example_file_shows_every_key_and_no_other() -> None:
    """A key that is not in the file would be known to nobody."""
    assert sorted(_leaves(tomli.loads(EXAMPLE.read_text()))) == sorted(_keys(Config))


def test_example_file_explains_every_key_in_one_to_three_lines() -> None:
    """Above each key stands what it does."""
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith(("#", "[")):
            above = [text.startswith("# ") for text in reversed(lines[max(0, number - 4) : number])]
            assert 1 <= (above.index(False) if False in above else 4) <= 3, line


def test_load_config_prefers_the_given_path_then_the_variable_then_the_fallback(tmp_path: Path) -> None:
    """The command line wins over the environment, which wins over /etc."""
    files = [tmp_path / f"{count}.toml" for count in (1, 2, 3)]
    for count, file in enumerate(files, start=1):
        file.write_text(f"[control]\nmax_connections = {count}\n")
    given_path, variable, fallback = files
    environ = {ENVIRONMENT_VARIABLE: str(variable)}
    assert load_config(given_path, environ, fallback).control.max_connections == 1
    assert load_config(None, environ, fallback).control.max_connections == 2
    assert load_config(None, {}, fallback).control.max_connections == 3
    assert load_config(None, {ENVIRONMENT_VARIABLE: ""}, fallback).control.max_connections == 3


def test_load_config_without_any_file_is_the_built_in_config(tmp_path: Path) -> None:
    """Only the fallback may be absent."""
    assert load_config(None, {}, tmp_path / "none.toml") == Config()


def test_load_config_refuses_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    """Who names a file means it."""
    absent = tmp_path / "absent.toml"
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such file$"):
        load_config(absent, {})
    with pytest.raises(ConfigError, match=r"absent\.toml: there is no such file$"):
        load_config(None, {ENVIRONMENT_VARIABLE: str(absent)})


def test_load_config_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    """A fallback that is there but unreadable is an error, not an invitation to run on the defaults."""
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
        load_config(None, {}, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[daemon]\nstate_dir = = 1\n", r"is no TOML: .*\(at line 2, column 13\)"),
        (b"a = 1\na = 2\n", "is no TOML: "),
        (b"a = '\xff'\n", "is no TOML: .*utf-8"),
        (b"a = " + b"1" * 5000, "is no TOML: "),
        (b"a = " + b"[" * 5000, "is no TOML: "),
    ],
)
def test_parse_config_tells_where_a_file_is_no_toml(content: bytes, message: str) -> None:
    """Malformed files are errors with file, line and column, whatever is wrong with them."""
    with pytest.raises(ConfigError, match=rf"^/etc/x\.toml: {message}"):
        parse_config(content, FILE)


def test_parse_config_reads_every_kind_of_value() -> None:
    """Sections, notations and typed values come out as their classes."""
    config = parse_config(
        b"""
        [daemon]
        state_dir = "/srv/c"
        on_shutdown = "pause"
        [control]
        listen = ["unix:/run/c.sock", "tcp:127.0.0.1:8765", "tcp:[::1]:0", "tcp:localhost:1"]
        token_file = "/etc/token"
        allowed_origins = ["http://localhost:3000"]
        [docker]
        host = "tcp://127.0.0.1:2375"
        lanes.kill = 3
        [sandbox]
        image = "busybox"
        pull = "never"
        command = ["sleep", "1"]
        env = { A = "b" }
        port = 0
        user = "1000"
        memory = "64MiB"
        cpus = 1
        init = false
        mounts = ["/srv/data:/data", "/srv/out:/out:rw"]
        [sandbox.allow]
        images = ["busybox*"]
        memory = "1GiB"
        [agent]
        driver = "none"
        [timeouts]
        start = "1m30s"
        grace = "0s"
        [restart]
        mode = "never"
        jitter = 0
        [archive]
        export_to = "/srv/archive"
        [alerts]
        kinds = ["error", "disk"]
        log = false
        webhook_url = "https://example.org/alerts?x=y"
        webhook_secret_file = "/etc/secret"
        command = ["/usr/bin/logger", "-s"]
        disk_free = "5GB"
        allowance = 1
        [journal]
        retention = "0s"
        [log]
        level = "debug"
        format = "json"
        """,
        FILE,
    )
    assert (config.daemon.state_dir, config.daemon.on_shutdown) == (Path("/srv/c"), OnShutdown.PAUSE)
    assert config.control.listen == (
        UnixAddress(Path("/run/c.sock")),
        TcpAddress("127.0.0.1", 8765),
        TcpAddress("::1", 0),
        TcpAddress("localhost", 1),
    )
    assert config.control.allowed_origins == ("http://localhost:3000",)
    assert (config.docker.host, config.docker.lanes.kill) == ("tcp://127.0.0.1:2375", 3)
    spec = config.sandbox.spec
    assert (spec.image, spec.pull, spec.command, spec.env) == ("busybox", PullPolicy.NEVER, ("sleep", "1"), {"A": "b"})
    assert (spec.port, spec.user, spec.memory, spec.cpus, spec.init) == (None, "1000", 64 * 1024**2, 1.0, False)
    assert spec.mounts == (Mount("/srv/data", "/data"), Mount("/srv/out", "/out", read_only=False))
    assert config.sandbox.allow == Allowance(images=("busybox*",), memory=1024**3)
    assert (config.timeouts.start, config.timeouts.grace, config.timeouts.stop) == (90.0, 0.0, 60.0)
    assert (config.restart.mode, config.restart.jitter) == (RestartMode.NEVER, 0.0)
    assert config.alert_settings() == AlertSettings(
        kinds=(AlertKind.ERROR, AlertKind.DISK),
        log=False,
        webhook=WebhookSettings("https://example.org/alerts?x=y", Path("/etc/secret")),
        command=("/usr/bin/logger", "-s"),
        disk_free=5 * 1000**3,
        allowance=1.0,
    )
    assert (config.archive.export_to, config.journal.retention) == (Path("/srv/archive"), 0.0)
    assert (config.log.level, config.log.format) == (LogLevel.DEBUG, LogFormat.JSON)


def test_empty_values_stand_for_none() -> None:
    """TOML has no word for "none": 0, "" and [] are the sandbox's own, "" the usual path or engine."""
    config = parse_config(
        b'[sandbox]\nport = 0\nuser = ""\ncommand = []\n[docker]\nhost = ""\n[control]\ntoken_file = ""', FILE
    )
    assert (config.sandbox.spec.port, config.sandbox.spec.user, config.sandbox.spec.command) == (None, None, None)
    assert (config.docker.host, config.control.token_file) == (None, None)


def test_token_path_is_in_the_state_directory_unless_named() -> None:
    """The token has a place of its own by default."""
    assert parse_config(b'[daemon]\nstate_dir = "/srv/c"', FILE).token_path == Path("/srv/c/token")
    assert parse_config(b'[control]\ntoken_file = "/srv/t"', FILE).token_path == Path("/srv/t")


def test_alert_settings_have_a_sink_for_what_is_named() -> None:
    """By default the log alone; the webhook's secret has a place of its own unless it is named."""
    config = parse_config(b'[alerts]\nwebhook_url = ""\nwebhook_secret_file = ""\ncommand = []', FILE)
    assert config.alert_settings() == Config().alert_settings() == AlertSettings()
    config = parse_config(b'[daemon]\nstate_dir = "/srv/c"\n[alerts]\nwebhook_url = "http://x"', FILE)
    assert config.alert_settings().webhook == WebhookSettings("http://x", Path("/srv/c/webhook-secret"))


def test_webhook_url_is_shown_nowhere() -> None:
    """Whoever knows it may post to it: it is in no error and in no picture of the config."""
    (error,) = _errors('[alerts]\nwebhook_url = "https://user:hunter2@example.org/hunter2"')
    assert "hunter2" not in error
    assert "hunter2" not in repr(parse_config(b'[alerts]\nwebhook_url = "https://example.org/hunter2"', FILE))


def test_actor_settings_carry_what_actors_need() -> None:
    """Every field of the actors' settings comes from its section."""
    config = parse_config(b'[archive]\nexport_to = "/a"\n[health]\nfailures = 9', FILE)
    assert config.actor_settings() == ActorSettings(
        sandbox=config.sandbox.spec,
        allow=config.sandbox.allow,
        agent="v1",
        timeouts=config.timeouts,
        restart=config.restart,
        health=config.health,
        capacity=config.capacity,
        archive_to=Path("/a"),
    )
    assert config.actor_settings().health.failures == 9


def test_all_errors_of_a_file_are_told_at_once_and_ready_for_a_terminal() -> None:
    """One line for each problem: file, key path, what is wrong and what is allowed."""
    assert _errors(
        """
        [daemon]
        state_dir = "relative"
        on_shutdown = "maybe"
        [docker.lanes]
        kil = 1
        stop = 65
        [sandbox]
        memory = "2G"
        mounts = ["/a:/b", "c"]
        allow = { cpus = 0 }
        [timeouts]
        start = "soon"
        stop = 5
        [restart]
        backoff_initial = "2m"
        jitter = 1.5
        [restrat]
        """
    ) == [
        "/etc/x.toml: daemon.state_dir: must be an absolute path like \"/srv/data\", not 'relative'",
        "/etc/x.toml: daemon.on_shutdown: must be one of 'leave', 'pause', 'stop', not 'maybe'",
        "/etc/x.toml: docker.lanes.stop: must be a whole number from 1 to 64, not 65",
        "/etc/x.toml: docker.lanes.kil: unknown key; did you mean kill?",
        '/etc/x.toml: sandbox.memory: \'2G\' is no size; write it like "2GiB", "512MiB" or "1GB"',
        '/etc/x.toml: sandbox.mounts[1]: \'c\' is no mount; write it like "/srv/data:/data" or "/srv/data:/data:rw"',
        "/etc/x.toml: sandbox.allow.cpus: must be a number from 0.01 to 1024, not 0",
        '/etc/x.toml: timeouts.start: \'soon\' is no duration; write it like "30s", "1m30s" or "500ms"',
        '/etc/x.toml: timeouts.stop: 5 is no duration; write it like "30s", "1m30s" or "500ms"',
        "/etc/x.toml: restart.jitter: must be a number from 0 to 1, not 1.5",
        "/etc/x.toml: restrat: unknown key; did you mean restart?",
        "/etc/x.toml: restart.backoff_max: 60 s is less than backoff_initial, which is 120 s",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("daemon = 5", "daemon: must be a table of keys, not 5"),
        ("sandbox = 5", "sandbox: must be a table of keys, not 5"),
        ("restart = []", "restart: must be a table of keys, not a list"),
        ("[health]\nfailures = true", "health.failures: must be a whole number from 1 to 1000, not true"),
        ("[health]\ninterval = '0s'", "health.interval: must be from 1ms to 3650d, not 0s"),
        ("[health]\ninterval = 1979-05-27", 'health.interval: a date is no duration; write it like "30s"'),
        ("[restart]\nbackoff_max = '1ms'", "restart.backoff_max: 0.001 s is less than backoff_initial, which is 1 s"),
        ("[restart]\nmax_restarts = 1001", "restart.max_restarts: must be a whole number from 0 to 1000, not 1001"),
        ("[restart]\nmode = 'always'", "restart.mode: must be one of 'on-failure', 'never', not 'always'"),
        ("[capacity]\nmax_running = -1", "capacity.max_running: must be a whole number from 0 to 1000000, not -1"),
        ("[control]\nmax_connections = 0", "control.max_connections: must be a whole number from 1 to 10000, not 0"),
        ("[control]\nlisten = []", "control.listen: must name at least one listener, and none"),
        ("[control]\nlisten = ['unix:/a', 'unix:/a']", "control.listen: must name at least one listener, and none"),
        ("[control]\nallowed_origins = ['*']", "control.allowed_origins[0]: '*' is no origin; write"),
        ("[control]\nallowed_origins = ['http://a/']", "control.allowed_origins[0]: 'http://a/' is no origin; write"),
        ("[alerts]\nwebhook_url = 'ftp://x'", 'alerts.webhook_url: must be like "https://example.org/alerts"'),
        ("[alerts]\nwebhook_url = 'http://a b'", "alerts.webhook_url: must be like"),
        ("[alerts]\nwebhook_url = 'http://'", "alerts.webhook_url: must be like"),
        ("[alerts]\nkinds = ['fire']", "alerts.kinds[0]: must be one of 'error', 'allowance', 'oom', 'engine', "),
        ("[alerts]\ncommand = ['mail']", "alerts.command: must be an absolute path like"),
        ("[alerts]\ncommand = 'mail'", "alerts.command: must be a list, not 'mail'"),
        ("[alerts]\nallowance = 0", "alerts.allowance: must be a number from 0.01 to 1, not 0"),
        ("[alerts]\ndisk_free = '10%'", "alerts.disk_free: '10%' is no size; write it like"),
        ("[control]\ntoken_file = 'token'", "control.token_file: must be an absolute path like"),
        ("[remote]\nurl = 'http://host.example'", "remote.url: would send the key in the clear"),
        ("[remote]\nurl = 'host.example'", "remote.url: must be like"),
        ("[docker]\nhost = '/var/run/docker.sock'", "docker.host: '/var/run/docker.sock' is no engine; write it"),
        ("[log]\nlevel = 'loud'", "log.level: must be one of 'debug', 'info', 'warning', 'error', not 'loud'"),
        ("[sandbox.allow]\nimages = '*'", "sandbox.allow.images: must be a list, not '*'"),
    ],
)
def test_parse_config_names_the_key_and_what_is_allowed(content: str, line: str) -> None:
    """Each kind of mistake has its own sentence, and is the only one."""
    errors = _errors(content)
    assert len(errors) == 1
    assert errors[0].startswith(f"/etc/x.toml: {line}")


def test_a_backoff_that_is_no_duration_is_told_once() -> None:
    """The comparison of the two backoffs leaves broken ones to their own errors."""
    assert len(_errors("[restart]\nbackoff_initial = 5")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcp:0.0.0.0:80", "could be reached by other machines; only 127.0.0.0/8"),
        ("tcp:192.168.1.2:80", "could be reached by other machines"),
        ("tcp:[::]:80", "could be reached by other machines"),
        ("tcp:example.org:80", "could be reached by other machines"),
        ("tcp::80", "is no listener"),
        ("tcp:127.0.0.1:65536", "is no listener"),
        ("tcp:127.0.0.1", 'is no listener; write it like "unix:'),
        ("tcp:127.0.0.1:-1", "is no listener"),
        ("http://localhost:80", "is no listener"),
        ("", "is no listener"),
        ("unix:control.sock", "is no listener"),
        ("unix:/", "must be an absolute path"),
        ("unix:/run/../c.sock", "must be an absolute path"),
        (f"unix:/{'a' * 107}", "at most 107 bytes"),
    ],
)
def test_listen_refuses_what_is_no_local_listener(text: str, message: str) -> None:
    """Nothing but this machine can ever be let in by a slip of the pen."""
    (error,) = _errors(f'[control]\nlisten = ["{text}"]')
    assert error.startswith("/etc/x.toml: control.listen[0]: ")
    assert message in error


def test_http_is_off_and_local_by_default() -> None:
    """Nothing is opened unasked, and its keys are in the state directory."""
    config = Config()
    assert not config.http.enabled
    assert str(config.http.listen) == "tcp:127.0.0.1:3000"
    assert config.api_keys_path == Path("/var/lib/conversationd/api-keys")
    assert parse_config(b'[http]\napi_keys_file = "/etc/keys"', FILE).api_keys_path == Path("/etc/keys")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('listen = "tcp:0.0.0.0:3000"', "http.listen: 'tcp:0.0.0.0:3000' could be reached by other machines"),
        ('listen = "3000"', "http.listen: '3000' is no listener"),
        ('listen = ["tcp:127.0.0.1:3000"]', "http.listen: "),
        ('enabled = "yes"', "http.enabled: "),
        ('api_keys_file = "keys"', "http.api_keys_file: "),
        ('allowed_hosts = ["https://x.example"]', "http.allowed_hosts[0]: 'https://x.example' is no host"),
        ('allowed_hosts = ["*"]', "http.allowed_hosts[0]: '*' is no host"),
        ('allowed_hosts = "x"', "http.allowed_hosts: "),
        ('cors_origins = ["*"]', "http.cors_origins[0]: '*' is no origin"),
        ('cors_origins = ["x.example"]', "http.cors_origins[0]: 'x.example' is no origin"),
        ("port = 3000", "http.port"),
    ],
)
def test_http_refuses_what_is_too_open_or_no_address(line: str, message: str) -> None:
    """By key, and with what is allowed."""
    (error,) = _errors(f"[http]\n{line}")
    assert message.replace("'", '"') in error.replace("'", '"')


@pytest.mark.parametrize("host", ["conversations.example.org", "localhost:8443", "[::1]:3000", "10.0.0.1"])
def test_http_allows_hosts_as_browsers_write_them(host: str) -> None:
    """With or without a port."""
    assert parse_config(f'[http]\nallowed_hosts = ["{host}"]'.encode(), FILE).http.allowed_hosts == (host,)


toml_values = st.sampled_from(
    ["5", "-1", "1.5", "nan", "true", "''", "'x'", "'30s'", "[]", "['/a:/b', 1]", "{}", "{a=1}"]
)
section_keys = st.sampled_from(sorted({*_keys(Config), "sandbox", "timeouts", "nonsense", "sandbox.env.A"}))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(section_keys, toml_values, max_size=4))
def test_parse_config_answers_any_values_with_a_config_or_lines(values: dict[str, str]) -> None:
    """No combination of keys and values raises anything but a `ConfigError` with a line for each problem."""
    content = "\n".join(f"{key} = {value}" for key, value in values.items())
    try:
        outcome: Config | ConfigError = parse_config(content.encode(), FILE)
    except ConfigError as error:
        outcome = error
    if isinstance(outcome, ConfigError):
        assert all(line.startswith("/etc/x.toml: ") for line in str(outcome).splitlines())
        assert len(outcome.problems) >= 1
    else:
        assert outcome.restart.backoff_max >= outcome.restart.backoff_initial
