"""Checks what fetching needs on this machine: libcurl, trusted authorities and the proxy.

`worker.pool.environment` calls this before the first loader starts, and `resnextq doctor` shows the
checks. The system's limits are in `worker.pool.limits`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from contract.check import Check
from contract.errors import UnavailableError
from contract.settings import PREFIX, Settings
from worker.loader.fetch.certificates import VARIABLES, find_authorities, named_by

log = logging.getLogger(__name__)

# The first version that tries a host's next address while an earlier one does not answer.
OLDEST_LIBCURL: Final = (8, 16, 0)


def require_conditions(settings: Settings) -> None:
    """Logs warnings about the conditions.

    Raises:
        UnavailableError: nothing could be fetched, or nothing over TLS.
    """
    for check in check_fetching(settings):
        if check.state == "failure":
            raise UnavailableError(f"{check.found}. {check.advice}")
        if check.state == "warning":
            log.warning("%s. %s", check.found, check.advice)


def check_fetching(settings: Settings) -> Iterator[Check]:
    yield _libcurl()
    yield _authorities()
    if settings.fetch_proxy is not None:
        found = f"{PREFIX}FETCH_PROXY is set, so loaders cannot check the address of a host"
        yield Check(
            "proxy", "warning", found, "Make sure that the proxy refuses private addresses."
        )


def _libcurl() -> Check:
    try:
        pycurl = import_module("pycurl")
    except ImportError as error:
        advice = (
            "Run pip install '.[worker]' in the project's folder. It builds pycurl if there is no "
            "wheel."
        )
        return Check("libcurl", "failure", f"pycurl cannot be loaded: {error}", advice)
    _, found, *_ = pycurl.version_info()
    if tuple(int(part) for part in found.split("-")[0].split(".")) >= OLDEST_LIBCURL:
        return Check("libcurl", "ok", pycurl.version)
    wanted = ".".join(map(str, OLDEST_LIBCURL))
    advice = f"Install pycurl's wheel, or build it with libcurl {wanted} or newer."
    found = f"libcurl {found} is old: if a host's first address is dead, its images may time out"
    return Check("libcurl", "warning", found, advice)


def _authorities() -> Check:
    variable, value = named_by(*VARIABLES)
    named = f"{variable} names {value}" if variable else "certifi's"
    file, folder = find_authorities()
    try:
        count = ssl.create_default_context(cafile=file, capath=folder).cert_store_stats()["x509_ca"]
    except OSError as error:  # SSLError is one of them
        count, named = 0, f"{named}, which cannot be read ({error.strerror or error})"
    if count or (folder is not None and any(folder.iterdir())):
        return Check("authorities", "ok", f"trusted: {named}")
    advice = f"Correct {variable}, or unset it." if variable else "Reinstall certifi."
    return Check("authorities", "failure", f"No certificate authority is trusted: {named}", advice)
