"""Every setting of every process, read from `RESNEXT_` variables or a `.env` file.

Each command reads them once with `load_settings` and passes them on; nothing else reads the
environment. The names contain the units.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, quote, urlsplit

from dotenv import dotenv_values  # pydantic-settings reads .env with it, too
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.cores import MOST_LOADERS, default_loaders
from contract.errors import SettingsError, UnavailableError
from contract.fetch_allow import Opening
from contract.models import default_weights
from contract.objects import EXTRAS, is_object, parse_object

PREFIX = "RESNEXT_"
MAX_CHUNK_IMAGES = 256
BATCH_IMAGES: Final = 32
"""Used if nothing is set and the device, which would decide, is not known."""
# Messages never show these values: each is a secret, or may contain a part of one.
SECRETS: Final = frozenset(
    {"broker_url", "database_url", "flower_login", "fetch_proxy", "s3_endpoint", "gcs_endpoint"}
)
PROXY_SCHEMES: Final = ("http", "https", "socks5h")
BROKER_SCHEMES: Final = ("redis://", "rediss://", "redis+socket://")


def _data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "resnext-queue"


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnext-queue"


def _comma_separated(value: Any) -> Any:  # noqa: ANN401  (whatever the environment held)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _fetch_exception(value: str) -> str:
    Opening.read(value)
    return value.lower()


def _header_text(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("it goes into a header, so it must be printable ASCII")
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("it must be https:// or http:// with host and port, without a password")
    return value.rstrip("/")


Endpoint = Annotated[str, AfterValidator(_endpoint)]


def _proxy(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in PROXY_SCHEMES or not parts.hostname or not parts.port:
        raise ValueError("it must be http://, https:// or socks5h:// with host and port")
    return value


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


Folder = Annotated[Path, AfterValidator(_absolute)]


def _uploads(value: str) -> str:
    if "://" not in value:
        return str(_absolute(Path(value)))
    if value.partition("://")[0].lower() not in EXTRAS:
        raise ValueError("it must be a folder, or a prefix such as s3://bucket/uploads/")
    parse_object(f"{value.rstrip('/')}/picture")
    return f"{value.rstrip('/')}/"


def _url_prefix(value: str) -> str:
    path = value.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*|", path):
        raise ValueError("it must be a path of letters, digits, - and _, such as /flower")
    return f"/{path}" if path else ""


def _with_uploads(roots: tuple[Path, ...], fields: ValidationInfo) -> tuple[Path, ...]:
    """Lets workers read the API's uploads, so that both need only `RESNEXT_UPLOADS`."""
    uploads = fields.data.get("uploads")
    if uploads is None or is_object(uploads) or Path(uploads) in roots:
        return roots
    return (*roots, Path(uploads))


class Settings(BaseSettings):
    """The settings. Field `x_y` is the variable `RESNEXT_X_Y`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    home: Folder = Field(default_factory=_data_folder)
    """Folder for the data of `resnextq up`. The default URLs point to it."""
    cache: Folder = Field(default_factory=_cache_folder)
    """Folder for downloaded weights, compiled code, and measurements of layers on a GPU."""
    broker_url: SecretStr | None = None
    """Address of Redis: `redis://`, `rediss://` (TLS, verified) or `redis+socket://`. Default:
    the broker that `up` started."""
    database_url: SecretStr | None = None
    """Address of the database: a SQLAlchemy URL, `postgresql://` or `sqlite:///`. Default: a
    file in `home`."""

    model: str = "resnext101_32x4d"
    """Network that new jobs ask for and that a worker serves: a name, or the path of a JSON
    file."""
    weights: str = Field(default_factory=lambda fields: default_weights(fields["model"]))
    """Weights of the network: a name that the model knows, `random`, or the path of a weights
    file."""
    precision: Literal["amp", "fp32"] = "amp"
    """`amp`: fp16 on CUDA, bf16 on a CPU with bf16 hardware, else fp32. `fp32`: fp32 everywhere."""
    device: str = "auto"
    """`auto` (a GPU that no other worker uses; the CPU only if there is no GPU), `cpu`, `cuda`
    or `cuda:N`."""
    engine: Literal["auto", "eager", "compiled", "openvino"] = "auto"
    """`eager` needs no compiler. `compiled` uses torch.compile, which needs a C compiler.
    `openvino` is an extra for CPUs. `auto`: on CUDA the faster of eager and compiled; on a CPU
    openvino if it is installed, else eager."""
    torch_threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that the network computes with. Default: one per core; on CUDA one."""

    chunk_images: int | None = Field(default=None, ge=1, le=MAX_CHUNK_IMAGES)
    """URIs in one message. Default: 64 for the first 8,192 URIs of a job, 128 for the next
    8,192, and 256 for the rest."""

    batch_images: int | None = Field(default=None, ge=1, le=1024)
    """Maximum number of images in a batch. Default: 32 on a CPU; on a GPU 32 to 256, depending on
    its memory."""
    max_batch_wait_ms: float = Field(default=50.0, ge=0)
    """How long the first image of a batch waits for the others."""
    chunk_patience_s: float = Field(default=5.0, gt=0)
    """A task ends once all its remaining images have been loading for this long."""
    in_flight_s: float = Field(default=2.0, gt=0)
    """Work that a worker holds, in seconds of its own rate."""
    chunks_in_flight: int = Field(default=512, ge=1, le=512)
    """Maximum number of chunks that one worker runs at once."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """How often a URI is tried if it fails with a transient error."""
    retry_backoff_s: float = Field(default=5.0, ge=0)
    """Mean wait before the second attempt; doubled for each further one."""
    loaders: int = Field(
        default_factory=lambda fields: default_loaders(fields["device"]), ge=1, le=MOST_LOADERS
    )
    """Loader processes of a worker (fetch, decode, crop). The default counts the cores that
    affinity and CPU quota permit, and divides them among the machine's GPUs."""
    fetches_per_loader: int = Field(default=1024, ge=1, le=4096)
    """URIs that one loader fetches at once."""
    fetches_per_host: int = Field(default=32, ge=1, le=4096)
    """URIs of one host that a worker fetches at once. Never more than half of all its fetches."""
    host_images_per_s: float | None = Field(default=None, ge=0.001)
    """URIs of one host that all workers together start to fetch per second. None: no limit."""

    thumbnails: int = Field(default=500, ge=0, le=100_000)
    """About how many images of a job get a thumbnail, plus one or two of each class. 0: no
    thumbnails."""

    fetch_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_fetch_exception)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
    ] = ()
    """Private targets that may be fetched: hosts, `*.suffix` for all hosts below it, host:port
    pairs, addresses or networks. An entry that cannot match anything is refused."""
    fetch_ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
    ] = ()
    """Ports that may be fetched from, such as `80,443`, also by redirects. None: every port.
    Also applies to hosts in `RESNEXT_FETCH_ALLOW`."""
    fetch_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Proxy for all web fetches: `http://`, `https://` or `socks5h://`,
    `[user:password@]host:port`. The proxy resolves names, so loaders cannot check where a name
    leads: it must refuse private addresses itself. `http_proxy` and similar variables are
    ignored."""
    fetch_headers: Folder | None = None
    """File with headers for hosts, one line `host: Name: value` each; `#` begins a comment. They
    go only to that host, on any port, and do not follow a redirect to another host."""
    uploads: Annotated[str, AfterValidator(_uploads)] | None = None
    """Where the HTTP API keeps uploaded pictures: a folder, or a prefix such as
    `s3://bucket/uploads/`. None: uploads are refused. Workers need the same value, because it
    opens the folder to file URIs. `up` sets it to a folder in its home."""
    file_roots: Annotated[
        tuple[Folder, ...],
        NoDecode,
        BeforeValidator(_comma_separated),
        AfterValidator(_with_uploads),
    ] = ()
    """Folders from which workers may read files. None: no files."""
    object_stores: Annotated[
        tuple[Literal["s3", "gs"], ...], NoDecode, BeforeValidator(_comma_separated)
    ] = ()
    """Object stores that URIs may name: `s3`, `gs`. None: no stores. Each needs an extra.
    Loaders get the credentials of the environment that an enabled store needs."""
    object_store_access: Literal["credentials", "anonymous"] = "credentials"
    """`anonymous`: requests are not signed and loaders get no credentials, so only public
    buckets can be read."""
    s3_endpoint: Endpoint | None = None
    """S3 server other than Amazon's, `https://` or `http://` host:port. It may be private."""
    gcs_endpoint: Endpoint | None = None
    """Server for Google Cloud Storage other than Google's, `https://` or `http://` host:port. It
    may be private."""
    fetch_deadline_s: float = Field(default=20.0, gt=0)
    """Wall-clock limit for one URI: look-up, connection, redirects and body, or reading a file."""
    decode_deadline_s: float = Field(default=20.0, gt=0)
    """Processor-time limit for decoding one image. Its loader is then ended and replaced. An
    image that takes five times as long by the clock is tried again later, as `timeout`."""
    decode: Literal["exact", "fast"] = "exact"
    """`exact` gives the same bits as the reference. `fast` decodes and resizes JPEGs with
    torchvision, differs by up to 2 of 255, and loads torch into every loader."""
    orientation: Literal["ignore", "exif"] = "ignore"
    """`exif` turns JPEG, PNG and WebP as the orientation in their EXIF says, before the resize.
    `ignore` uses pixels as they are stored, as NVIDIA's own preprocessing does. Results record
    the value."""
    max_image_bytes: int = Field(default=32 * 2**20, ge=1)
    """Maximum number of bytes read from one URI. A larger image fails as `too_large`."""
    max_pixels: int = Field(default=100_000_000, ge=1)
    """Maximum number of pixels of an image (width times height), by its header."""
    max_side_pixels: int = Field(default=65_535, ge=1)
    """Maximum width and height of an image, by its header. No JPEG exceeds the default."""
    truncated: Literal["refuse", "accept"] = "refuse"
    """Files that end before the image does: `refuse` fails them. `accept` classifies the
    available part of a JPEG, PNG, GIF, BMP or TIFF whose header is complete, and treats damage
    inside a file in the same way."""
    max_redirects: int = Field(default=5, ge=0, le=30)
    """Maximum number of redirects of one URI. Each target is checked like the URI itself."""
    robots: Literal["honour", "ignore"] = "honour"
    """`honour`: images whose `X-Robots-Tag` says `noai`, `noimageai`, `noindex`, `noimageindex`
    or `none` are not fetched. `ignore`: they are."""
    sandbox: Literal["auto", "required", "off"] = "auto"
    """Sandbox for loader processes. `auto`: use what the kernel offers. `required`: workers do
    not start without all of it. `off`: no sandbox."""
    contact: Annotated[str, AfterValidator(_header_text)] = ""
    """URL or mail address in the User-Agent, so that webmasters can reach you."""

    window_s: float = Field(default=1.5, gt=0)
    """Work that the broker holds for all workers, in seconds of their rate."""
    dispatch_interval_s: float = Field(default=0.5, gt=0)
    """How often the dispatcher looks for due chunks."""
    lease_s: float = Field(default=30.0, ge=1)
    """A worker without a heartbeat for this long counts as dead."""
    stop_within_s: float = Field(default=30.0, gt=0)
    """How long a stopping worker may take to finish the batches on its device."""

    thumbnails_days: float = Field(default=30.0, gt=0, le=36_500)
    """Thumbnails older than this many days are deleted."""

    flower_login: SecretStr | None = None
    """Login of the dashboard, `user:password`. `up` generates one."""
    flower_address: str = "127.0.0.1"
    """Address that the dashboard listens on."""
    flower_port: int = Field(default=5555, ge=0, le=65535)
    """Port of the dashboard. 0: any free port. If nothing is set and 5555 is taken, `up` takes a
    free port."""
    flower_url_prefix: Annotated[str, AfterValidator(_url_prefix)] = ""
    """The path that the dashboard has behind a proxy, such as `/flower`; the proxy passes it on."""
    api_address: str = "127.0.0.1"
    """Address that the HTTP API and the pages listen on."""
    api_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the HTTP API and the pages. 0: any free port. If nothing is set and 8080 is taken,
    `up` takes a free port."""
    api_requests_per_s: int = Field(default=500, ge=1)
    """Requests that one key may send per second."""
    api_body_bytes: int = Field(default=2 * 2**30, ge=1)
    """Largest request body that the API accepts: a list of URIs, or uploaded pictures."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port on which a worker, a dispatcher or the HTTP API serves metrics for Prometheus. 0: any
    free port. None: no metrics. Each process on a machine needs its own port: `up` uses this one
    for its worker, the next one for its dispatcher and the one after that for its API."""
    metrics_address: str = "127.0.0.1"
    """Address that the metrics are served on."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe messages that are logged."""
    log_format: Literal["text", "json"] = "text"
    """`json`: each line that a program logs is one JSON object; see [Logs](logs.md)."""
    log_file_bytes: int = Field(default=16 * 2**20, ge=4096)
    """Size at which a log file of `up` is closed and a new one started."""
    log_files: int = Field(default=4, ge=0, le=1000)
    """Number of closed log files that `up` keeps for each program; the oldest is deleted."""

    @model_validator(mode="after")
    def _known_schemes(self) -> Self:
        _check_scheme("BROKER_URL", self.broker_url, BROKER_SCHEMES)
        if self.broker_url is not None and not _is_broker_url(self.broker_url.get_secret_value()):
            # Does not show the value: what was misread may be part of the password.
            raise ValueError(
                f"{PREFIX}BROKER_URL cannot be read as a URL; write "
                "redis://:password@host:port/number or "
                "redis+socket://:password@/path?virtual_host=number; "
                "in a password, write @ : / ? # as %40 %3A %2F %3F %23"
            )
        _check_scheme(
            "DATABASE_URL",
            self.database_url,
            ("postgresql://", "postgresql+psycopg://", "sqlite:///"),
        )
        if self.flower_login is not None and ":" not in self.flower_login.get_secret_value():
            raise ValueError(f"{PREFIX}FLOWER_LOGIN must be user:password")
        return self

    @property
    def broker_url_file(self) -> Path:
        """File with the address of `up`'s broker, readable only by its owner."""
        return self.home / "broker-url"

    @property
    def served_file(self) -> Path:
        """File with what `up` serves; see `contract.served`."""
        return self.home / "served.json"

    @property
    def api_url_file(self) -> Path:
        """File with the HTTP API's address, because its port may be any free one."""
        return self.home / "api-url"

    @property
    def api_key_file(self) -> Path:
        """File in which `up` keeps a key for the API, readable only by its owner."""
        return self.home / "api-key"

    @property
    def login_link_file(self) -> Path:
        """File with a link that logs a browser in once, readable only by its owner."""
        return self.home / "login-link"

    def broker(self) -> str:
        """The broker's URL, password included.

        Raises:
            UnavailableError: no URL is set, and `up` has left no address.
        """
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        try:
            return self.broker_url_file.read_text().strip()
        except FileNotFoundError as missing:
            raise UnavailableError(
                f"No broker: {PREFIX}BROKER_URL is not set, and `up` has not run in {self.home}. "
                "Start everything on this machine with `resnextq up`, or set the variable."
            ) from missing

    def database(self) -> str:
        """The database's URL, password included, with the driver that is installed."""
        if self.database_url is None:
            return f"sqlite:///{quote(str(self.home / 'resnext.db'))}"  # it may have a ? or %
        url = self.database_url.get_secret_value()
        return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _check_scheme(name: str, url: SecretStr | None, allowed: tuple[str, ...]) -> None:
    """Refuses other schemes. The message shows only the scheme: the rest may hold a password."""
    if url is not None and not url.get_secret_value().startswith(allowed):
        scheme, colon, _ = url.get_secret_value().partition(":")
        given = f"{scheme}:" if colon else "no scheme"
        raise ValueError(f"{PREFIX}{name} begins with {given}; allowed: {', '.join(allowed)}")


def _is_broker_url(url: str) -> bool:
    """Whether host, port and database number are where they should be.

    An unescaped password usually ends the host early; its rest, with the `@`, is then in the path
    or the query.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises if it is not a port)
    except ValueError:
        return False
    rest = f"{parts.path}?{parts.query}"
    if "@" in rest or "#" in url or parts.netloc.count("@") > 1:
        return False
    if parts.scheme == "redis+socket":
        number = parse_qs(parts.query).get("virtual_host", ["0"])[-1]
        return parts.path not in ("", "/") and number.isdecimal()
    return parts.path in ("", "/") or parts.path.removeprefix("/").isdecimal()


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401  (any field's type)
    """Reads the settings of this process; `overrides` are options from the command line.

    Raises:
        SettingsError: a value is wrong; names each variable, its value and what is allowed.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error))) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The file .env is not UTF-8: its byte {error.start + 1} is 0x"
            f"{error.object[error.start]:02x}. Save it as UTF-8."
        ) from error
    except OSError as error:
        what = "The file .env" if error.filename else "The current folder"
        raise SettingsError(f"{what} cannot be read: {error.strerror}.") from error
    except RuntimeError as error:  # from pathlib
        raise SettingsError(
            f"This user has no home folder: HOME is not set, and the system knows no folder for "
            f"the user id {os.getuid()}. Set HOME."
        ) from error


class LogFormat(BaseSettings):
    """The only setting that is needed to report errors in other settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore"
    )
    log_format: str = "text"


def unknown_variables() -> list[tuple[str, str]]:
    """Variables in the environment and `.env` that start like a setting but are not one, each with
    the nearest setting.
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    return [
        (name, get_close_matches(name, known, n=1, cutoff=0.0)[0])
        for name in sorted({*os.environ, *_names_in_env_file()})
        if name.startswith(PREFIX) and name not in known
    ]


def _names_in_env_file() -> set[str]:
    """The names in `.env`, in upper case: pydantic accepts both cases."""
    file = Settings.model_config.get("env_file")
    if file is None or not Path(str(file)).is_file():
        return set()
    return {name.upper() for name in dotenv_values(str(file))}


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        reason = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(f"{reason}.")
            continue
        field = str(problem["loc"][0]).lower()
        secret = field in SECRETS
        value = "a secret" if secret else repr(problem["input"])
        lines.append(f"{PREFIX}{field.upper()} is {value}: {reason}.")
    return lines
