"""How a page shows numbers, times and strangers' texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from producer.jobs.sampled import Sample, Settled
from producer.pages.charts import HEIGHT, draw_pace, draw_scores
from producer.pages.html import TEMPLATES, percent, query, rate, size, web_address, when

START = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, "0%"), (0.00001, "<0.1%"), (0.001, "0.1%"), (0.0123, "1.2%"), (0.0994, "9.9%"),
        (0.0996, "10%"), (0.5, "50%"), (0.99, "99%"), (0.9951, "99.5%"), (0.9994, "99.9%"),
        (0.99951, ">99.9%"), (1, "100%"),
    ],
)  # fmt: skip
def test_a_share_shows_as_0_or_100_percent_only_if_it_is_exact(share, expected) -> None:
    assert percent(share) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(12_345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (0.254, "0.25"), (0.0166, "0.017")],
)
def test_a_rate_has_few_digits(number, expected) -> None:
    assert rate(number) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(812, "812 bytes"), (34_900, "34 KiB"), (1_300_000, "1.2 MiB")]
)
def test_a_size_has_a_unit(number, expected) -> None:
    assert size(number) == expected


def test_a_time_is_readable_by_programs_too() -> None:
    expected = '<time datetime="2026-11-29T12:00:00+00:00">2026-11-29 12:00 UTC</time>'
    assert when(START) == when("2026-11-29T13:00:00+01:00") == expected


@pytest.mark.parametrize(
    ("uri", "is_link"),
    [
        ("https://a.org/x", True), ("http://a.org", True), ("ftp://a.org/", False),
        ("javascript:alert(1)", False), ("https:///x", False), ("https://a.org/ b", False),
        ("https://a.org/\x01", False), ("https://[", False), ("", False),
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(uri, is_link) -> None:
    assert web_address(uri) == (uri if is_link else None)


def test_a_query_holds_the_given_values() -> None:
    assert query(a=None, b="", c="x y&z", d=0) == "?c=x+y%26z&d=0"
    assert query(a=None) == ""


def test_a_text_is_escaped_and_controls_nothing() -> None:
    shown = TEMPLATES.from_string("{{ text }}").render(text="<b>\u202e\x07 & \"'")
    assert shown == "&lt;b&gt;\\u202e\\x07 &amp; &#34;&#39;"
    shown = TEMPLATES.from_string("{{ text | lines }}").render(text="<b>\r\n\u202e")
    assert shown == "&lt;b&gt;\n\\u202e"


# Charts.


def settled(*seconds: float, failed: bool = False, score: float | None = 0.5) -> list[Settled]:
    return [Settled(START + timedelta(seconds=one), failed, score) for one in seconds]


def test_the_pace_is_in_images_per_second() -> None:
    found = draw_pace(Sample(settled(*(n / 10 for n in range(1_001))), 10))
    assert found is not None
    assert found.mean == pytest.approx(100, rel=0.01)
    assert found.most == pytest.approx(100, rel=0.1)
    assert (found.start, found.end) == (START, START + timedelta(seconds=100))
    assert found.area.startswith(f"M0 {HEIGHT}V")
    assert found.area.endswith(f"V{HEIGHT}Z")


@pytest.mark.parametrize("times", [(), (0.0,) * 100, (0.0, 60.0)])
def test_a_chart_needs_enough_images(times) -> None:
    assert draw_pace(Sample(settled(*times), 1)) is None


def test_scores_are_counted_in_twenty_bars() -> None:
    images = settled(0, 0, 0, score=1.0) + settled(0, score=0.0) + settled(0, score=None)
    found = draw_scores(Sample(images, 1))
    assert found is not None
    shares = [bar.share for bar in found.bars]
    assert (shares[0], shares[-1], sum(shares)) == (0.25, 0.75, 1.0)
    assert found.bars[-1].height == HEIGHT
    assert draw_scores(Sample(settled(0, score=None), 1)) is None
