"""X-Robots-Tag: which lines ask us not to use a picture."""

from __future__ import annotations

import pytest

from worker.loader.fetch.robots import forbidding


@pytest.mark.parametrize(
    ("lines", "directive"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["nofollow, noarchive,noai"], "noai"),
        (["nofollow", "noindex"], "noindex"),
        (["resnext-queue: noai"], "noai"),
        (["Resnext-Queue: nofollow, noindex"], "noindex"),
        (["otherbot: noindex, resnext-queue: noai"], "noai"),
        (["otherbot: noindex", "noai"], "noai"),
        (["max-snippet:50, noindex"], "noindex"),
        (["noindex, max-image-preview: large"], "noindex"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai"], "noai"),
    ],
)
def test_the_directive_that_forbids_us_is_named(lines, directive) -> None:
    assert forbidding(lines) == directive


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["all"],
        ["nofollow, noarchive, nosnippet"],
        ["otherbot: noindex"],
        ["otherbot: nofollow, noindex"],
        ["resnext-queue: all, otherbot: noai"],
        ["max-image-preview:none"],
        ["unavailable_after: 25 Jun 2010 15:00:00 PST"],
        ["noindexing", "not noai"],
        [":", ",", "a:b:c"],
    ],
)
def test_lines_for_others_or_with_weaker_requests_forbid_nothing(lines) -> None:
    assert forbidding(lines) is None
