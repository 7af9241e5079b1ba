"""Texts that try to become markup, a script or a link. Strangers may write them anywhere."""

from __future__ import annotations

BREAKS = (
    "", '">', "'>", "</textarea>", "</title></script>", "-->", "</style>", "\u202e</td>", "{{",
    "\\\"'`=>",
)  # fmt: skip
PAYLOADS = (
    "<script>hit()</script>",
    "<img src=x onerror=hit()>",
    "<svg/onload=hit()>",
    "<a href=javascript:hit()>x</a>",
    '<iframe srcdoc="<script>parent.hit()</script>"></iframe>',
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "javascript:hit()//",
    "' onfocus=hit() autofocus tabindex=0 x='",
)
TEXTS = tuple(f"{before}{payload}" for before in BREAKS for payload in PAYLOADS)
EVERYTHING = " ".join(TEXTS)
"""All of them in one text."""
