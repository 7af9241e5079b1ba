"""Why an image has no classes: the closed list of error codes, with cause and advice.

A loader or the classifier returns a `Failure`; its code goes to `results.error_code`. If a code is
`retried`, the image is tried again later, up to `max_attempts` times in all. Every other code is
final at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_DETAIL_CHARS: Final = 500


@dataclass(frozen=True, kw_only=True)
class ErrorCode:
    """One entry of the list."""

    name: str
    cause: str
    advice: str
    retried: bool = False


@dataclass(frozen=True)
class Failure:
    """Why one image has no classes.

    `detail` is for the submitter and reveals nothing about the worker's network.
    `retry_after_s` is the wait that the server asked for; None if it did not ask.
    """

    code: str
    detail: str = ""
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        if not is_known(self.code):
            raise ValueError(f"unknown error code {self.code!r}")
        object.__setattr__(self, "detail", self.detail[:MAX_DETAIL_CHARS])

    @property
    def retried(self) -> bool:
        return describe(self.code).retried


ERROR_CODES: Final = {
    code.name: code
    for code in (
        ErrorCode(
            name="blocked_scheme",
            cause="Workers do not fetch URIs with this scheme.",
            advice="Use http, https, files under RESNEXT_FILE_ROOTS, or an object store that "
            "RESNEXT_OBJECT_STORES enables.",
        ),
        ErrorCode(
            name="blocked_address",
            cause="The host, or the target of its redirect, has a private, loopback, link-local or "
            "reserved address.",
            advice="If the host is yours, add it to the workers' RESNEXT_FETCH_ALLOW.",
        ),
        ErrorCode(
            name="blocked_port",
            cause="The port of the URI, or of a redirect, is not in RESNEXT_FETCH_PORTS.",
            advice="Add it to RESNEXT_FETCH_PORTS, or unset that variable to allow every port.",
        ),
        ErrorCode(
            name="blocked_path",
            cause="The file, with links resolved, is not under a folder of RESNEXT_FILE_ROOTS; or "
            "a web server redirects to a file.",
            advice="Add its folder to RESNEXT_FILE_ROOTS, start `resnextq up` or the workers again "
            "with it, and retry.",
        ),
        ErrorCode(
            name="bad_uri",
            cause="The URI is not valid: no host, a bad port, a bad escape. Or "
            "`submit --on-invalid record` found a line without a URI or with an impossible id.",
            advice="Correct the URI, or the line that the detail names.",
        ),
        ErrorCode(
            name="not_found",
            cause="The file does not exist.",
            advice="Check that the worker sees the same path.",
        ),
        ErrorCode(
            name="unreadable",
            cause="The file exists, but the worker may not read it, or it is not a regular file.",
            advice="Check the file's permissions for the worker's user.",
        ),
        ErrorCode(
            name="dns",
            cause="The host's name has no address.",
            advice="Check the name; look-ups that failed temporarily were tried again.",
            retried=True,
        ),
        ErrorCode(
            name="connect",
            cause="The connection was refused, reset or interrupted, or the proxy refused it.",
            advice="The host is down or refuses the connection; retry later.",
            retried=True,
        ),
        ErrorCode(
            name="tls",
            cause="The server's certificate or TLS handshake is not valid; the detail says how.",
            advice="For your own authority, set the workers' SSL_CERT_FILE. Other problems must be "
            "fixed on the server.",
        ),
        ErrorCode(
            name="timeout",
            cause="The image did not arrive within fetch_deadline_s, or its loader does not answer "
            "or gets no processor time.",
            advice="Retry later, or raise RESNEXT_FETCH_DEADLINE_S.",
            retried=True,
        ),
        ErrorCode(
            name="robots",
            cause="The server's X-Robots-Tag asks not to use the image, for example with noai.",
            advice="Respect it, or set RESNEXT_ROBOTS=ignore if you are allowed to.",
        ),
        ErrorCode(
            name="bad_response",
            cause="The server's answer is not HTTP, contradicts itself, has too many headers, or "
            "is compressed in a way that the request did not accept.",
            advice="The server is broken or hostile.",
        ),
        ErrorCode(
            name="too_many_redirects",
            cause="The URI leads through more redirects than max_redirects.",
            advice="Submit the final address.",
        ),
        ErrorCode(
            name="too_large",
            cause="The image has more bytes than max_image_bytes, as sent or after unpacking.",
            advice="Raise RESNEXT_MAX_IMAGE_BYTES to allow such images.",
        ),
        ErrorCode(
            name="not_an_image",
            cause="The bytes are not of a known image format.",
            advice="Replace the file, and retry. If an address leads to a page, submit the address "
            "of the image itself.",
        ),
        ErrorCode(
            name="unsupported_format",
            cause="An image of a format or kind that is not supported; the detail names it.",
            advice="Convert it to JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; for HEIF, run "
            "pip install '.[heif]' in the project's folder on each worker.",
        ),
        ErrorCode(
            name="truncated",
            cause="The file ends before the image does.",
            advice="Replace the file by the complete image. Or start `resnextq up` or the workers "
            "with RESNEXT_TRUNCATED=accept, and retry.",
        ),
        ErrorCode(
            name="too_many_pixels",
            cause="The image has more than max_pixels pixels or a side above max_side_pixels, or "
            "its decoder wants more memory than the largest allowed image needs.",
            advice="Raise RESNEXT_MAX_PIXELS or RESNEXT_MAX_SIDE_PIXELS to allow such images.",
        ),
        ErrorCode(
            name="decode_error",
            cause="The image's bytes contradict its format.",
            advice="The file is damaged; upload it again.",
        ),
        ErrorCode(
            name="crashed",
            cause="The decoder or the worker crashed on this image each time.",
            advice="The file is damaged or hostile; please report it.",
        ),
        ErrorCode(
            name="decode_timeout",
            cause="Decoding the image took more than decode_deadline_s of processor time.",
            advice="The file is hostile, or RESNEXT_DECODE_DEADLINE_S is too short for its size.",
        ),
        ErrorCode(
            name="not_finite",
            cause="The network's scores are not finite numbers.",
            advice="Check the weights, or use RESNEXT_PRECISION=fp32, which has a larger range.",
        ),
        ErrorCode(
            name="cancelled",
            cause="The job was cancelled before this image was done.",
            advice="Run it again with `resnextq retry JOB --error cancelled`.",
        ),
        ErrorCode(
            name="expired",
            cause="The job's time limit ended before this image was done.",
            advice="Run it again with `resnextq retry JOB --error expired`. More workers help.",
        ),
        ErrorCode(
            name="internal",
            cause="An error in this program.",
            advice="Please report it, with the detail and the worker's log.",
            retried=True,
        ),
    )
}

HTTP_PREFIX: Final = "http_"
_HTTP_CODE: Final = re.compile(HTTP_PREFIX + "[0-9]{3}")
# 408 and 425 ask to repeat the request, 429 to repeat it later; 5xx are errors of the server.
RETRIED_HTTP: Final = frozenset({408, 425, 429, *range(500, 600)})


def _http_advice(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return (
            "The server wants fewer requests: lower RESNEXT_FETCHES_PER_HOST or set "
            "RESNEXT_HOST_IMAGES_PER_S, then retry."
        )
    if status in RETRIED_HTTP:
        return "The server has a problem or is too busy. The image was tried again; retry later."
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return (
            "The server wants a login or refuses programs. RESNEXT_FETCH_HEADERS can send a "
            "header; RESNEXT_CONTACT tells the server who you are."
        )
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return "There is nothing at this address. Correct it, or leave it out."
    return "Open the address in a browser to see why."


def is_known(code: str) -> bool:
    return code in ERROR_CODES or _HTTP_CODE.fullmatch(code) is not None


def describe(code: str) -> ErrorCode:
    """The entry for a code; `http_NNN` stands for each status except 200.

    Raises:
        KeyError: this program does not know the code.
    """
    if _HTTP_CODE.fullmatch(code):
        status = int(code.removeprefix(HTTP_PREFIX))
        return ErrorCode(
            name=code,
            cause=f"The server answered with status {status}.",
            advice=_http_advice(status),
            retried=status in RETRIED_HTTP,
        )
    return ERROR_CODES[code]
