"""Checks the HTTP API and its key, and finds addresses that other machines can reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from contract.check import Check, State
from contract.settings import PREFIX, Settings

WITHIN_S: Final = 1.0
OK: Final = 200
RISKS: Final = {
    "API": "keys and results cross the network unencrypted",
    "FLOWER": "its login crosses the network unencrypted",
    "METRICS": "metrics have no login",
}
WAYS_OUT: Final = {
    "API": "Put a proxy with TLS in front of it",
    "FLOWER": "Put a proxy with TLS in front of it",
    "METRICS": "Let a firewall admit only Prometheus",
}


def check_api(settings: Settings) -> Iterator[Check]:
    """Asks the API that `up` runs on this machine, or the one at the configured address."""
    if find_spec("fastapi") is None:
        found = "not checked: the extra `api` is not installed here"
        yield Check(
            "api", "ok", found, "To run it here: pip install '.[api]' in the project's folder"
        )
        return
    url = _kept_url(settings)
    if url is None and not _listens(settings.api_address, settings.api_port):
        where = f"{settings.api_address}:{settings.api_port}"
        found = f"nothing listens on {where}; `resnextq serve` and `resnextq up` start it"
        yield Check("api", "ok", found)
        return
    yield _answers(url or _url_of(settings), settings, is_ours=url is not None)


def check_open(settings: Settings) -> Iterator[Check]:
    """A warning for each listening address that other machines can reach."""
    metrics = settings.metrics_address if settings.metrics_port is not None else None
    addresses = {
        "API": settings.api_address,
        "FLOWER": settings.flower_address,
        "METRICS": metrics,
    }
    open_to_others = {
        what: address
        for what, address in addresses.items()
        if address is not None and not is_loopback(address)
    }
    for what, address in open_to_others.items():
        name = f"{PREFIX}{what}_ADDRESS"
        found = f"{name}={address}: other machines can reach it; {RISKS[what]}"
        yield Check("open addresses", "warning", found, f"{WAYS_OUT[what]}, or unset {name}.")
    if not open_to_others:
        yield Check("open addresses", "ok", "none: API, dashboard and metrics are on loopback")


def is_loopback(address: str) -> bool:
    """A name counts by its addresses. A name without any counts as loopback."""
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ipaddress.ip_address(str(where[0])).is_loopback for *_, where in found)


def _answers(url: str, settings: Settings, *, is_ours: bool) -> Check:
    """`is_ours`: the address is from `up`. Otherwise another program may listen there."""
    wrong: State = "failure" if is_ours else "warning"
    try:
        status = _get(f"{url}/readyz", None)
    except HTTPError as error:
        reason = type(error).__name__
        advice = "Look at the API's log. `resnextq up` and `resnextq serve` restart it."
        return Check("api", wrong, f"{url} does not answer: {reason}", advice)
    if status != OK:
        advice = f"The API's log says why. If another program listens there, set {PREFIX}API_PORT."
        return Check("api", wrong, f"{url}/readyz answers with the status {status}", advice)
    key = _kept_key(settings) if is_ours else None
    if key is None:
        return Check("api", "ok", f"{url} answers; there is no key here to try")
    status = _get(f"{url}/v1/workers", key)
    if status == OK:
        return Check("api", "ok", f"{url} answers and accepts the key in {settings.api_key_file}")
    found = f"{url} refuses the key in {settings.api_key_file}: status {status}"
    advice = (
        f"Remove {settings.api_key_file} and start `resnextq up` again, which creates a new key."
    )
    return Check("api", "failure", found, advice)


def _get(url: str, key: str | None) -> int:
    headers: dict[str, Any] = {} if key is None else {"Authorization": f"Bearer {key}"}
    timeout = urllib3.Timeout(connect=WITHIN_S, read=WITHIN_S)
    with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
        return pool.request("GET", url, headers=headers, redirect=False).status


def _kept_url(settings: Settings) -> str | None:
    """The URL of the API that `up` runs on this machine."""
    with suppress(OSError):
        return settings.api_url_file.read_text().strip() or None
    return None


def _kept_key(settings: Settings) -> str | None:
    with suppress(OSError):
        return settings.api_key_file.read_text().strip() or None
    return None


def _url_of(settings: Settings) -> str:
    address = settings.api_address
    return f"http://{f'[{address}]' if ':' in address else address}:{settings.api_port}"


def _listens(address: str, port: int) -> bool:
    if port == 0:
        return False
    with suppress(OSError), socket.create_connection((address, port), WITHIN_S):
        return True
    return False
