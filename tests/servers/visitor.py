"""A visitor who opens the pages without scripts, follows links and sends their forms."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import requests

from tests.wait import WITHIN_S


class Visitor:
    """A browser without scripts, but with cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=WITHIN_S, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """Posts as a form on this server's pages would."""
        headers = {"Origin": self.url} | options.pop("headers", {})
        return self.session.post(self.url + path, timeout=WITHIN_S, headers=headers, **options)

    def log_in(self, key: str | None, **options: Any) -> requests.Response:
        return self.post("/login", data={"key": key or "", "next": "/"}, **options)

    def send(self, page: str, action: str, **changed: Any) -> requests.Response:
        """Sends the form with this action, with some of its fields changed."""
        form = next(one for one in forms_of(self.get(page).text) if one.action == action)
        files = changed.pop("files", None)
        fields = form.fields | changed
        return self.post(urljoin(page, action), data=fields, files=files)


class Form:
    def __init__(self, action: str) -> None:
        self.action = action
        self.fields: dict[str, str] = {}


def forms_of(html: str) -> list[Form]:
    reader = _Forms()
    reader.feed(html)
    return reader.found


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(given.get("action", "")))
        kind = given.get("type", "text")
        if tag == "input" and self.found and "name" in given and kind not in {"file", "checkbox"}:
            self.found[-1].fields[given["name"]] = given.get("value", "")
