"""How TLS to the broker is verified: reads the `ssl_` options of the broker's URL.

`contract.broker.connection` passes them to Celery, and all Redis clients take them from there:
workers, dispatcher, host rates, dashboard and `resnextq doctor`. Kombu's default for `rediss://`
verifies nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from contract.errors import SettingsError
from contract.settings import PREFIX

VERIFIED: Final[dict[str, Any]] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
"""In redis-py's names: check the certificate against this machine's authorities, and the host."""
_REQUIREMENTS: Final = {
    "required": "required",
    "optional": "optional",
    "none": "none",
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
}
_BOOLEANS: Final = {"true": True, "false": False}
_FILES: Final = frozenset(("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"))
_TEXTS: Final = frozenset(("ssl_ciphers", "ssl_password"))


def tls_of(broker_url: str) -> dict[str, Any] | None:
    """redis-py's arguments for TLS; None if the URL does not ask for TLS.

    Raises:
        SettingsError: an option does not exist, its value is wrong, or its file is missing.
    """
    given = {
        name: _value_of(name, value)
        for name, value in _options(broker_url)
        if name.startswith("ssl_")
    }
    if not (given or urlsplit(broker_url).scheme == "rediss"):
        return None
    return VERIFIED | given


def without_tls_options(broker_url: str) -> str:
    """The URL for Celery, which gets `tls_of` separately."""
    kept = [option for option in _options(broker_url) if not option[0].startswith("ssl_")]
    parts = urlsplit(broker_url)
    if len(kept) == len(_options(broker_url)):
        return broker_url
    return urlunsplit(parts._replace(query=urlencode(kept)))


def why_unverified(broker_url: str) -> str:
    """The option that turns verification off; empty if the server is verified, or without TLS."""
    tls = tls_of(broker_url)
    if tls is None:
        return ""
    if tls["ssl_cert_reqs"] == "none":
        return "ssl_cert_reqs=none"
    return "" if tls["ssl_check_hostname"] else "ssl_check_hostname=false"


def _options(broker_url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(broker_url).query, keep_blank_values=True)


def _value_of(name: str, value: str) -> Any:  # noqa: ANN401  (any of redis-py's arguments)
    if name == "ssl_cert_reqs":
        return _one_of(name, value, _REQUIREMENTS)
    if name == "ssl_check_hostname":
        return _one_of(name, value.lower(), _BOOLEANS)
    if name in _FILES and not Path(value).exists():
        raise SettingsError(
            f"In {PREFIX}BROKER_URL the option {name} names {value}, which does not exist."
        )
    if name not in _FILES | _TEXTS:
        known = ", ".join(sorted({*VERIFIED, *_FILES, *_TEXTS}))
        raise SettingsError(f"{PREFIX}BROKER_URL has the option {name}; allowed: {known}.")
    return value


def _one_of(name: str, value: str, allowed: dict[str, Any]) -> Any:  # noqa: ANN401  (the same)
    if value not in allowed:
        words = ", ".join(word for word in allowed if word.islower())
        raise SettingsError(
            f"In {PREFIX}BROKER_URL the option {name} is {value!r}; allowed: {words}."
        )
    return allowed[value]
