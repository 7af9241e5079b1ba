"""The URL by which a client on the same machine opens one of our servers."""

from __future__ import annotations

from typing import Final

# These addresses are only compared, never bound.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def url_at(address: str, port: int) -> str:
    """The URL of a server. An address that means every interface becomes loopback."""
    host = _EVERYWHERE.get(address, address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
