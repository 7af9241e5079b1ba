"""Certificates for servers of the tests: a good one, and some that a fetch must refuse."""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"


def tls_of(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{name}.pem", CERTIFICATES / "key.pem")
    return context
