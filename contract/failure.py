"""Why an image has no classes: the closed list of error codes, with what each one means.

A loader or the classifier gives a `Failure`; its code goes to `results.error_code`. A code
that is `retried` is tried again, alone and later, up to `max_attempts` times; every other
is final at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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

    `detail` is for the person who submitted it and holds nothing of the worker's network.
    `retry_after_s` is what the server asked for, where it asked.
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
            cause="The URI's scheme is not one that workers fetch.",
            advice="Use http, https, file URIs under RESNEXT_FILE_ROOTS, or an object store that "
            "RESNEXT_OBJECT_STORES enables.",
        ),
        ErrorCode(
            name="blocked_address",
            cause="The host, or where it redirects to, has a private, loopback, link-local or "
            "reserved address.",
            advice="If it is yours, name it in RESNEXT_FETCH_ALLOW of the workers.",
        ),
        ErrorCode(
            name="blocked_port",
            cause="The URI's port, or that of a redirect, is none of RESNEXT_FETCH_PORTS.",
            advice="Add it to RESNEXT_FETCH_PORTS, or unset that: then every port is permitted.",
        ),
        ErrorCode(
            name="blocked_path",
            cause="The file is under no folder of RESNEXT_FILE_ROOTS, links resolved; or the web "
            "redirects to a file.",
            advice="Add its folder to RESNEXT_FILE_ROOTS of the workers.",
        ),
        ErrorCode(
            name="bad_uri",
            cause="The URI cannot be read as one: no host, a bad port, a bad escape. Or "
            "`submit --on-invalid record` met a line without a URI that workers take.",
            advice="Correct the URI, or the line that the detail names.",
        ),
        ErrorCode(
            name="not_found",
            cause="There is no such file.",
            advice="Check that the worker sees the same path.",
        ),
        ErrorCode(
            name="unreadable",
            cause="The file exists and the worker may not read it, or it is no regular file.",
            advice="Check its permissions for the worker's user.",
        ),
        ErrorCode(
            name="dns",
            cause="The host's name has no address.",
            advice="Check the name; a look-up that failed in passing was tried again.",
            retried=True,
        ),
        ErrorCode(
            name="connect",
            cause="The connection was refused, reset or interrupted, or the proxy refused it.",
            advice="The host is down or refuses us; retry later.",
            retried=True,
        ),
        ErrorCode(
            name="tls",
            cause="The server's certificate or TLS handshake is not valid; the detail says how.",
            advice="Name an authority of your own in SSL_CERT_FILE of the workers; everything else "
            "is the site's to mend.",
        ),
        ErrorCode(
            name="timeout",
            cause="The image was not there within fetch_deadline_s, or its loader answers nothing "
            "or gets no processor time.",
            advice="Retry later, or raise RESNEXT_FETCH_DEADLINE_S.",
            retried=True,
        ),
        ErrorCode(
            name="robots",
            cause="The server's X-Robots-Tag asks that the image is left alone: noai or the like.",
            advice="Respect it, or set RESNEXT_ROBOTS=ignore where you may.",
        ),
        ErrorCode(
            name="bad_response",
            cause="The server's answer is no HTTP, contradicts itself, has too many headers, or is "
            "packed in a way that was not asked for.",
            advice="The server is broken or hostile.",
        ),
        ErrorCode(
            name="too_many_redirects",
            cause="More redirects than max_redirects.",
            advice="Submit the address that they lead to.",
        ),
        ErrorCode(
            name="too_large",
            cause="More bytes than max_image_bytes, on their way or unpacked.",
            advice="Raise RESNEXT_MAX_IMAGE_BYTES if you want such images.",
        ),
        ErrorCode(
            name="not_an_image",
            cause="The bytes are of no image format.",
            advice="The address gives a page or a text; submit the image's own.",
        ),
        ErrorCode(
            name="unsupported_format",
            cause="An image, but of a format or a kind that is not decoded; the detail names it.",
            advice="Convert it to JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; for HEIF, install "
            "resnext-queue[heif] on the workers.",
        ),
        ErrorCode(
            name="truncated",
            cause="The file ends before the image does.",
            advice="Upload the whole image, or set RESNEXT_TRUNCATED to accept.",
        ),
        ErrorCode(
            name="too_many_pixels",
            cause="Width times height is above max_pixels, a side above max_side_pixels, or its "
            "decoder wants more memory than such an image needs.",
            advice="Raise RESNEXT_MAX_PIXELS or RESNEXT_MAX_SIDE_PIXELS if you want such images.",
        ),
        ErrorCode(
            name="decode_error",
            cause="The image's bytes contradict its format.",
            advice="The file is damaged.",
        ),
        ErrorCode(
            name="crashed",
            cause="The decoder crashed on this image, or its worker did, each time.",
            advice="The file is damaged or hostile; please report it.",
        ),
        ErrorCode(
            name="decode_timeout",
            cause="Decoding the image took more than decode_deadline_s of processor time.",
            advice="The file is hostile, or RESNEXT_DECODE_DEADLINE_S too short for its size.",
        ),
        ErrorCode(
            name="not_finite",
            cause="The network's scores are not finite numbers.",
            advice="Check the weights; with RESNEXT_PRECISION=fp32 the range is larger.",
        ),
        ErrorCode(
            name="cancelled",
            cause="The job was cancelled before this image was done.",
            advice="Run it again with `resnextq retry JOB --error cancelled`.",
        ),
        ErrorCode(
            name="expired",
            cause="The job's time ran out before this image was done.",
            advice="Run it again with `resnextq retry JOB --error expired`. More workers help.",
        ),
        ErrorCode(
            name="internal",
            cause="A fault of this program.",
            advice="Please report it, with the detail and the worker's log.",
            retried=True,
        ),
    )
}

HTTP_PREFIX: Final = "http_"
_HTTP_CODE: Final = re.compile(HTTP_PREFIX + "[0-9]{3}")
# 408 and 425 ask for the same again, 429 for the same later; 5xx are the server's own trouble.
RETRIED_HTTP: Final = frozenset({408, 425, 429, *range(500, 600)})


def is_known(code: str) -> bool:
    return code in ERROR_CODES or _HTTP_CODE.fullmatch(code) is not None


def describe(code: str) -> ErrorCode:
    """The entry of a code; `http_NNN` stands for every status that is not 200.

    Raises:
        KeyError: the code is of no version that this program knows.
    """
    if _HTTP_CODE.fullmatch(code):
        status = int(code.removeprefix(HTTP_PREFIX))
        return ErrorCode(
            name=code,
            cause=f"The server answered with status {status}.",
            advice="Open the address in a browser to see why.",
            retried=status in RETRIED_HTTP,
        )
    return ERROR_CODES[code]
