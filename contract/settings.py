"""Every setting of every process, read from `RESNEXT_` variables or a `.env` file.

Read once by each command with `load_settings`, then passed on; nothing else looks at the
environment. Units stand in the names.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.cores import MOST_LOADERS, default_loaders
from contract.errors import SettingsError, UnavailableError
from contract.fetch_allow import Opening
from contract.models import default_weights

PREFIX = "RESNEXT_"
MAX_CHUNK_IMAGES = 256
BATCH_IMAGES: Final = 32
"""Where nothing is set, and the device, which decides then, is not known."""
# What is not shown where it is wrong: it is a secret, or what was misread may be a piece of one.
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
        raise ValueError("it goes into a header, which holds printable ASCII alone")
    return value


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("it is https:// or http:// with host and port, and no password")
    return value.rstrip("/")


Endpoint = Annotated[str, AfterValidator(_endpoint)]


def _proxy(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in PROXY_SCHEMES or not parts.hostname or not parts.port:
        raise ValueError("it is http://, https:// or socks5h:// with host and port")
    return value


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


Folder = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """The settings; field `x_y` is the variable `RESNEXT_X_Y`."""

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
    """Data of the stack that `resnextq up` embeds, and what the default URLs point to."""
    cache: Folder = Field(default_factory=_cache_folder)
    """Downloaded weights, compiled code, and what was measured of layers on a GPU."""
    broker_url: SecretStr | None = None
    """`redis://`, `rediss://` (TLS, verified) or `redis+socket://`; default: the broker that `up`
    started."""
    database_url: SecretStr | None = None
    """A SQLAlchemy URL, `postgresql://` or `sqlite:///`; default: a file in `home`."""

    model: str = "resnext101_32x4d"
    """The network that new jobs ask for and that a worker serves: a name, or a JSON file's path."""
    weights: str = Field(default_factory=lambda fields: default_weights(fields["model"]))
    """A name that the model knows, `random`, or a path of a weights file."""
    precision: Literal["amp", "fp32"] = "amp"
    """`amp`: fp16 on CUDA, bf16 on a CPU that has it in hardware, else fp32."""
    device: str = "auto"
    """`auto` (a GPU that no other worker has; a CPU only where there is no GPU), `cpu`, `cuda` or
    `cuda:N`."""
    engine: Literal["auto", "eager", "compiled", "openvino"] = "auto"
    """`eager` needs no compiler; `compiled` by torch.compile, which needs one for C; `openvino`, an
    extra, on a CPU; `auto`: on CUDA the faster of eager and compiled, on a CPU openvino where it is
    installed, else eager."""
    torch_threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that the network computes with; by default one for each core, on CUDA one."""

    chunk_images: int | None = Field(default=None, ge=1, le=MAX_CHUNK_IMAGES)
    """URIs in one message; by default 64 for the first 8,192 URIs of a job, 128 for as many after
    them, and 256 for the rest."""

    batch_images: int | None = Field(default=None, ge=1, le=1024)
    """Images that the network classifies at once, at most; by default 32 on a CPU, and on a GPU 32
    to 256 by its memory."""
    max_batch_wait_ms: float = Field(default=50.0, ge=0)
    """How long the first image of a batch waits for the others."""
    chunk_patience_s: float = Field(default=5.0, gt=0)
    """A task ends once all that it still waits for has been loading for this long."""
    in_flight_s: float = Field(default=2.0, gt=0)
    """How much work a worker takes at a time, in seconds of the rate that it has shown."""
    chunks_in_flight: int = Field(default=512, ge=1, le=512)
    """Chunks that one worker runs at a time, at most."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Runs that a URI gets when it fails for a passing reason."""
    retry_backoff_s: float = Field(default=5.0, ge=0)
    """Mean wait before the second run; doubled for each further one."""
    loaders: int = Field(
        default_factory=lambda fields: default_loaders(fields["device"]), ge=1, le=MOST_LOADERS
    )
    """Loader processes of a worker (fetch, decode, crop). The default counts the cores that
    affinity and CPU quota permit, and divides them among the machine's GPUs."""
    fetches_per_loader: int = Field(default=1024, ge=1, le=4096)
    """URIs that one loader fetches at a time."""
    fetches_per_host: int = Field(default=32, ge=1, le=4096)
    """URIs of one host that a worker fetches at a time; never more than half of all that it
    fetches at a time."""
    host_images_per_s: float | None = Field(default=None, ge=0.001)
    """URIs of one host that all workers together begin to fetch in a second; none: no limit."""

    fetch_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_fetch_exception)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
    ] = ()
    """Hosts, `*.suffix` for all hosts below it, host:port pairs, addresses or networks that may be
    fetched although private. An entry that can open nothing is refused."""
    fetch_ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...],
        NoDecode,
        BeforeValidator(_comma_separated),
    ] = ()
    """Ports that may be fetched from, such as `80,443`, where redirects lead as well; none: any.
    Holds for what `RESNEXT_FETCH_ALLOW` opens, too."""
    fetch_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """A proxy for all that is fetched from the web: `http://`, `https://` or `socks5h://`,
    `[user:password@]host:port`. It looks names up, so loaders cannot check where a name leads: the
    proxy must refuse private addresses. `http_proxy` and the like are ignored."""
    fetch_headers: Folder | None = None
    """A file with headers for hosts, a line `host: Name: value` each; `#` begins a comment. They
    go to that very host alone, whatever the port, and not along with a redirect to another one."""
    file_roots: Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_comma_separated)] = ()
    """Folders that file URIs may name; none by default."""
    object_stores: Annotated[
        tuple[Literal["s3", "gs"], ...], NoDecode, BeforeValidator(_comma_separated)
    ] = ()
    """Object stores that URIs may name, of `s3` and `gs`; none by default, and each is an extra.
    Loaders are then given the credentials of the environment, as far as they need them."""
    object_store_access: Literal["credentials", "anonymous"] = "credentials"
    """`anonymous`: requests are not signed, loaders get no credentials, and public buckets alone
    can be read."""
    s3_endpoint: Endpoint | None = None
    """An S3 server other than Amazon's, `https://` or `http://` host:port; it may be private."""
    gcs_endpoint: Endpoint | None = None
    """The same of Google's Cloud Storage."""
    fetch_deadline_s: float = Field(default=20.0, gt=0)
    """Wall-clock time for one URI: look-up, connection, redirects and body, or reading a file."""
    decode_deadline_s: float = Field(default=20.0, gt=0)
    """Processor time for decoding one image; its loader is then ended, and started anew. An image
    that takes five times as long by the clock is tried again later, as `timeout`."""
    decode: Literal["exact", "fast"] = "exact"
    """`exact` to the bit as in the reference; `fast` decodes and resizes JPEGs by torchvision, up
    to 2 of 255 beside it, with torch in every loader."""
    orientation: Literal["ignore", "exif"] = "ignore"
    """`exif` turns JPEG, PNG and WebP as the orientation in their EXIF says, before the resize;
    `ignore` takes pixels as they are stored, as NVIDIA's own preprocessing does. Results say
    which."""
    max_image_bytes: int = Field(default=32 * 2**20, ge=1)
    """What is read of one URI before it is given up as too large."""
    max_pixels: int = Field(default=100_000_000, ge=1)
    """Width times height, by the image's header."""
    max_side_pixels: int = Field(default=65_535, ge=1)
    """Width, and height, by the image's header; no JPEG has more than the default."""
    truncated: Literal["refuse", "accept"] = "refuse"
    """Files that end before the image does; `accept` classifies what there is of a JPEG, PNG, GIF,
    BMP or TIFF whose header is whole, and what is damaged inside in the same way."""
    max_redirects: int = Field(default=5, ge=0, le=30)
    """Redirects that one URI may lead through; each is checked like the URI itself."""
    robots: Literal["honour", "ignore"] = "honour"
    """`honour`: an image whose `X-Robots-Tag` says `noai`, `noimageai`, `noindex`, `noimageindex`
    or `none` is not taken."""
    sandbox: Literal["auto", "required", "off"] = "auto"
    """What loaders do not need is taken from them: `auto`, as far as the kernel can; `required`:
    a worker does not start where it cannot all be; `off`: none of it."""
    contact: Annotated[str, AfterValidator(_header_text)] = ""
    """A URL or mail address for the User-Agent, so that webmasters can reach you."""

    window_s: float = Field(default=1.5, gt=0)
    """How much of the fleet's work the broker holds."""
    dispatch_interval_s: float = Field(default=0.5, gt=0)
    """How often the dispatcher looks for chunks that are due."""
    lease_s: float = Field(default=30.0, ge=1)
    """A worker without a heartbeat for this long is taken for dead."""
    stop_within_s: float = Field(default=30.0, gt=0)
    """How long a worker may take to finish what it has on its device when it is stopped."""

    flower_login: SecretStr | None = None
    """`user:password` of the dashboard; `up` generates one."""
    flower_address: str = "127.0.0.1"
    """Where the dashboard listens."""
    flower_port: int = Field(default=5555, ge=0, le=65535)
    """0: any free port."""
    api_address: str = "127.0.0.1"
    """Where the HTTP API listens."""
    api_port: int = Field(default=8080, ge=0, le=65535)
    """0: any free port. `up` takes a free one where nothing is set and 8080 is taken."""
    api_requests_per_s: int = Field(default=500, ge=1)
    """Requests that one key may send in a second."""
    api_body_bytes: int = Field(default=2 * 2**30, ge=1)
    """The largest list of URIs that the API takes."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where a worker shows its metrics to Prometheus; 0: any free port; none: nowhere."""
    metrics_address: str = "127.0.0.1"
    """The address that it listens on for that."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe messages that are logged."""

    @model_validator(mode="after")
    def _known_schemes(self) -> Self:
        _check_scheme("BROKER_URL", self.broker_url, BROKER_SCHEMES)
        if self.broker_url is not None and not _is_broker_url(self.broker_url.get_secret_value()):
            # What was misread may be a piece of the password, so it is not shown.
            raise ValueError(
                f"{PREFIX}BROKER_URL cannot be read as a URL, which is "
                "redis://:password@host:port/number or "
                "redis+socket://:password@/path?virtual_host=number; "
                "in a password, @ : / ? # are written as %40 %3A %2F %3F %23"
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
        """Where the embedded stack leaves the address of its broker, readable by its owner."""
        return self.home / "broker-url"

    @property
    def api_url_file(self) -> Path:
        """Where the HTTP API leaves its address, since its port may be any."""
        return self.home / "api-url"

    @property
    def api_key_file(self) -> Path:
        """Where `up` keeps a key of the API, readable by its owner."""
        return self.home / "api-key"

    def broker(self) -> str:
        """The broker's URL, password included.

        Raises:
            UnavailableError: none is set and no embedded stack has left one.
        """
        if self.broker_url is not None:
            return self.broker_url.get_secret_value()
        try:
            return self.broker_url_file.read_text().strip()
        except FileNotFoundError as missing:
            raise UnavailableError(
                f"No broker: {PREFIX}BROKER_URL is not set and nothing has run in {self.home}. "
                "Start everything on this machine with `resnextq up`, or set the variable."
            ) from missing

    def database(self) -> str:
        """The database's URL, password included, with the driver that is installed."""
        if self.database_url is None:
            return f"sqlite:///{self.home / 'resnext.db'}"
        url = self.database_url.get_secret_value()
        return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _check_scheme(name: str, url: SecretStr | None, allowed: tuple[str, ...]) -> None:
    """Refuses an address of another kind; names its scheme alone, since it may hold a password."""
    if url is not None and not url.get_secret_value().startswith(allowed):
        scheme, colon, _ = url.get_secret_value().partition(":")
        given = f"{scheme}:" if colon else "no scheme"
        raise ValueError(f"{PREFIX}{name} begins with {given}; allowed: {', '.join(allowed)}")


def _is_broker_url(url: str) -> bool:
    """Whether host, port and number of the database are where they should be.

    A password that is not escaped ends the host early, and the rest of it, with the `@`, comes
    after: that is how most of them show.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (raises if it is no port)
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
    """The settings of this process; `overrides` are options of the command line.

    Raises:
        SettingsError: naming each variable, its value and what is allowed.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(error))) from error


def unknown_variables() -> list[tuple[str, str]]:
    """Variables of the environment that look like settings and are none, with the nearest."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    return [
        (name, get_close_matches(name, known, n=1, cutoff=0.0)[0])
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    ]


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
