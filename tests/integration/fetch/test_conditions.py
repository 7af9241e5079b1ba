"""A worker's start and `doctor` report what a machine lacks for fetching."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from contract.check import Check
from contract.errors import UnavailableError
from contract.settings import Settings
from resnext.spec.catalogue import find_spec
from tests.servers.tls import AUTHORITY
from worker.loader.conditions import check_fetching, require_conditions
from worker.loader.fetch.certificates import VARIABLES
from worker.pool.pool import LoaderPool


@pytest.fixture(autouse=True)
def _no_authorities_of_the_machine(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def checks(settings: Settings | None = None) -> dict[str, Check]:
    return {check.name: check for check in check_fetching(settings or Settings())}


def test_versions_and_files_are_reported() -> None:
    found = checks()
    assert {check.state for check in found.values()} == {"ok"}
    assert "libcurl/8" in found["libcurl"].found
    assert found["authorities"].found == "trusted: certifi's"
    require_conditions(Settings())


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_authorities_file_in_use_is_reported(variable: str, monkeypatch) -> None:
    monkeypatch.setenv(variable, str(AUTHORITY))
    assert checks()["authorities"].found == f"trusted: {variable} names {AUTHORITY}"


def test_authorities_may_be_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert checks()["authorities"].state == "failure"
    (tmp_path / "0a1b2c3d.0").write_bytes(AUTHORITY.read_bytes())
    assert checks()["authorities"].state == "ok"


@pytest.mark.parametrize("content", [None, "", "no certificate"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_no_worker_starts_without_authorities(
    variable: str, content: str | None, tmp_path: Path, monkeypatch
) -> None:
    bundle = tmp_path / "authorities.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv(variable, str(bundle))
    found = checks()["authorities"]
    assert (found.state, found.advice) == ("failure", f"Correct {variable}, or unset it.")
    with pytest.raises(UnavailableError, match=rf"{variable} names {bundle}.*Correct {variable}"):
        LoaderPool(Settings(loaders=1), find_spec("resnext101_32x4d").preprocessing)


def test_no_worker_starts_without_pycurl(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", None)
    found = checks()["libcurl"]
    assert found.state == "failure"
    assert "'.[worker]'" in found.advice
    with pytest.raises(UnavailableError, match="pycurl cannot be loaded"):
        require_conditions(Settings())


def test_an_old_libcurl_is_a_warning(monkeypatch, caplog) -> None:
    old = ModuleType("pycurl")
    old.version, old.version_info = "libcurl/7.88.1", lambda: (9, "7.88.1-DEV", 0)
    monkeypatch.setitem(sys.modules, "pycurl", old)
    assert checks()["libcurl"].state == "warning"
    require_conditions(Settings())
    assert "libcurl 8.16.0 or newer" in caplog.text


def test_the_warning_about_a_proxy_hides_its_password(caplog) -> None:
    settings = Settings(fetch_proxy="http://me:s3cr3t@proxy.internal:3128")
    require_conditions(settings)
    assert "RESNEXT_FETCH_PROXY is set" in caplog.text
    assert "private addresses" in checks(settings)["proxy"].advice
    assert "s3cr3t" not in caplog.text
