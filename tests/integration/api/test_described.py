"""How the API describes itself: a page for people, and metrics for Prometheus."""

from __future__ import annotations

import base64
import hashlib
from html import unescape
from html.parser import HTMLParser

from prometheus_client.parser import text_string_to_metric_families as families

from tests.servers.api import Api

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects links, anchors and the style."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.style = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.links += [found["href"] or ""] if "href" in found else []
        self.anchors += [found["id"] or ""] if "id" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data


def test_a_page_describes_every_operation(api: Api) -> None:
    answer = api.reader.get("/docs")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    told = api.reader.get("/openapi.json").json()
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            assert f">{method.upper()} {path}</h2>" in answer.text
            for parameter in operation.get("parameters", ()):
                assert f"<code>{parameter['name']}</code>" in answer.text
    for name in ("JobIn", "JobOut", "Problem"):
        assert f">{name}</h2>" in answer.text
    assert "`" not in unescape(answer.text)


def test_the_page_runs_no_script_and_contacts_no_other_host(api: Api) -> None:
    answer = api.reader.get("/docs")
    page = Page(answer.text)
    assert page.open == []
    assert not {"script", "img", "link", "iframe", "form"} & page.tags
    aims = {f"#{name}" for name in page.anchors} | {"openapi.json"}
    assert set(page.links) <= aims
    assert len(page.anchors) == len(set(page.anchors))
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy == f"default-src 'none'; frame-ancestors 'none'; style-src 'sha256-{digest}'"


def counted(api: Api) -> dict[tuple[str, ...], float]:
    answer = api.reader.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        tuple(sample.labels.values()): sample.value
        for family in families(answer.text)
        for sample in family.samples
        if sample.name == "resnext_api_requests_total"
    }


def test_answers_are_counted_by_route_and_status(api: Api) -> None:
    for job in ("0123456789abcdef", "abc"):
        api.reader.get(f"/v1/jobs/{job}")
    api.reader.get("/v1/jobs")
    api.stranger.get("/v1/jobs")
    api.stranger.get("/nothing/of/the/kind")
    api.reader("ODD", "/v1/jobs")
    found = counted(api)
    assert found["GET", "/v1/jobs/{job_id}", "404"] == 2
    assert found["GET", "/v1/jobs", "200"] == 1
    assert found["GET", "none", "401"] == 2, "requests without a key count under no route"
    assert not any("nothing" in label or "ODD" in label for labels in found for label in labels)


def test_the_time_of_answers_is_counted(api: Api) -> None:
    api.reader.get("/v1/jobs")
    text = api.reader.get("/metrics").text
    assert '\nresnext_api_answer_seconds_count{route="/v1/jobs"} 1.0\n' in text
    assert "process_resident_memory_bytes" in text
