"""`rediss://` reaches only the server in the URL, with every client that uses Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from flower.utils.broker import Broker

from contract.broker.connection import check_broker, make_celery, redis_of
from contract.errors import BrokerUnavailable, SettingsError
from contract.settings import Settings
from producer.doctor import check_servers
from tests.integration.dispatching import on_broker
from tests.servers.tls import AUTHORITY, HOST, tls_before
from worker.embedded.valkey import Valkey
from worker.pool.host_rate import _limiter, window_of

TRUSTED = f"ssl_ca_certs={AUTHORITY}"
MakeUrl = Callable[..., str]


@pytest.fixture
def make_url(valkey: Valkey) -> Iterator[MakeUrl]:
    """A function that puts Valkey behind TLS with a certificate, and returns its URL."""
    assert valkey.socket_path is not None
    with ExitStack() as stack:

        def make(certificate: str, *options: str) -> str:
            port = stack.enter_context(tls_before(valkey.socket_path, certificate))
            query = f"?{'&'.join(options)}" if options else ""
            return f"rediss://:{valkey._password}@{HOST}:{port}/0{query}"

        yield make


def check(url: str) -> None:
    """Connect with Kombu's transport, redis-py's client and the limiter of host rates."""
    app = make_celery(on_broker(Settings(), url))
    try:
        check_broker(app)
        assert redis_of(app).ping()
        assert _limiter(app).hit(window_of(5.0), "host")
    finally:
        app.close()


@pytest.mark.parametrize(
    ("certificate", "options", "reason"),
    [
        ("self-signed", [], "self.signed certificate"),
        ("good", [], "unable to get local issuer certificate"),
        ("self-signed", [TRUSTED], "self.signed certificate"),
        ("expired", [TRUSTED], "certificate has expired"),
        ("other-host", [TRUSTED], "IP address mismatch"),
    ],
)
def test_a_server_without_a_valid_certificate_gets_no_password(
    make_url: MakeUrl, certificate: str, options: list[str], reason: str
) -> None:
    with pytest.raises(BrokerUnavailable, match=reason) as refused:
        check(make_url(certificate, *options))
    assert "ssl_ca_certs=/path/to/authority.pem" in str(refused.value)


@pytest.mark.parametrize(
    ("certificate", "options"),
    [
        ("good", [TRUSTED]),
        ("self-signed", ["ssl_cert_reqs=none"]),
        ("other-host", [TRUSTED, "ssl_check_hostname=false"]),
    ],
)
def test_a_server_is_reached_if_it_is_trusted_or_not_verified(
    make_url: MakeUrl, certificate: str, options: list[str]
) -> None:
    check(make_url(certificate, *options))


async def flower_asks(url: str) -> list[object]:
    """Ask for the queues as the dashboard's broker page does."""
    app = make_celery(on_broker(Settings(), url))
    try:
        with app.connection() as connection:
            broker = Broker(
                connection.as_uri(include_password=True),
                broker_options=app.conf.broker_transport_options,
                broker_use_ssl=app.conf.broker_use_ssl,
            )
        return list(await broker.queues([app.conf.task_default_queue]))
    finally:
        app.close()


def test_the_dashboard_verifies_the_server(make_url: MakeUrl) -> None:
    import asyncio

    assert asyncio.run(flower_asks(make_url("good", TRUSTED)))
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(flower_asks(make_url("self-signed")))


@pytest.mark.parametrize(
    ("certificate", "options", "state", "words"),
    [
        ("good", [TRUSTED], "ok", "certificate and host name are verified"),
        ("self-signed", ["ssl_cert_reqs=none"], "warning", "ssl_cert_reqs=none"),
        ("good", [TRUSTED, "ssl_check_hostname=False"], "warning", "ssl_check_hostname=false"),
    ],
)
def test_doctor_warns_if_the_server_is_not_verified(
    make_url: MakeUrl, certificate: str, options: list[str], state: str, words: str
) -> None:
    settings = on_broker(
        Settings(database_url="sqlite:////nowhere"), make_url(certificate, *options)
    )
    checks = {check.name: check for check in check_servers(settings)}
    found = checks["broker TLS"]
    assert found.state == state
    assert words in found.found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ssl_cert_reqs=no", "ssl_cert_reqs is 'no'; allowed: required, optional, none"),
        ("ssl_check_hostname=0", "ssl_check_hostname is '0'; allowed: true, false"),
        ("ssl_ca_certs=/no.pem", "ssl_ca_certs names /no.pem, which does not exist"),
        ("ssl_ca=/no.pem", "has the option ssl_ca; allowed: "),
        ("socket_timeout=5", "has the option socket_timeout, which does not exist"),
    ],
)
def test_a_bad_option_in_the_url_is_named(options: str, words: str) -> None:
    with pytest.raises(SettingsError, match="RESNEXT_BROKER_URL") as refused:
        make_celery(Settings(broker_url=f"rediss://{HOST}/0?{options}"))
    assert words in str(refused.value)
