"""The files in the home that say where the API and the dashboard listen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.settings import Settings
from producer.api import server
from worker.commands import flower

WRITERS = {
    "api": (server.write_url, lambda settings: settings.api_url_file),
    "dashboard": (flower.write_url, flower.url_file),
}


@pytest.mark.parametrize(("write", "file_of"), WRITERS.values(), ids=WRITERS)
def test_a_reader_never_sees_half_an_address(
    write: Callable[[Settings, str], None], file_of: Callable[[Settings], Path], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    write(settings, "http://127.0.0.1:1")
    with file_of(settings).open() as reader:
        write(settings, "http://127.0.0.1:2")
        assert reader.read() == "http://127.0.0.1:1\n"
    assert file_of(settings).read_text() == "http://127.0.0.1:2\n"
