"""The guard on calls to addresses that callers name: what is reached is what was checked."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpress.service import outgoing
from rankpress.service.addresses import refusal
from rankpress.service.outgoing import Refused, Rules, Unanswered
from tests.hookreceiver import Receiver, receiving

STRICT = Rules()
OPEN = Rules(allow_http=True, allow_private=True, seconds=10)


class Names:
    """A name server that gives the next answer at each question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def post(url: str, rules: Rules, names: Names | None = None, **more: object) -> outgoing.Answer:
    return asyncio.run(
        outgoing.post(url, body=b"{}", headers={"X-A": "b"}, rules=rules, resolve=names, **more)  # type: ignore[arg-type]
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


ALWAYS_REFUSED = [
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%2",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
    "240.0.0.1",
    "2001:db8::1",
    "3fff::1",
    "fec0::1",
    "4000::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",  # 169.254.169.254 through NAT64
    "2002:a9fe:a9fe::1",  # and through 6to4
]
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "fc00::1",
    "fdff::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", ALWAYS_REFUSED)
def test_never_called(address: str) -> None:
    assert refusal(ip_address(address), allow_private=False)
    assert refusal(ip_address(address), allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_called_when_allowed(address: str) -> None:
    assert refusal(ip_address(address), allow_private=False)
    assert refusal(ip_address(address), allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert refusal(ip_address(address), allow_private=False) is None


@given(st.ip_addresses(v=4))
def test_mapping_an_address_changes_nothing(address: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    translated = IPv6Address(int(IPv6Address("64:ff9b::")) + int(address))
    expected = refusal(address, allow_private=False)
    assert refusal(mapped, allow_private=False) == expected
    assert refusal(translated, allow_private=False) == expected


@pytest.mark.parametrize("network", ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8"])
@given(st.data())
def test_no_address_of_these_networks(network: str, data: st.DataObject) -> None:
    address = data.draw(st.ip_addresses(network=IPv4Network(network)))
    assert refusal(address, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https:///path",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://example.org:22/",
        "https://example.org:0/",
        "https://localhost/",
        "https://a.LOCALHOST./",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://exa mple.org/",
        "https://example.org:99999/",
        "not a url",
    ],
)
def test_refused_without_asking_a_name_server(url: str) -> None:
    names = Names(["8.8.8.8"])
    with pytest.raises(Refused) as refused:
        post(url, STRICT, names)
    assert names.asked == []
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://example.org", "https://example.org:8443/a?b=c#d"])
def test_ordinary_urls_pass(url: str) -> None:
    outgoing.check_url(url, STRICT)


@pytest.mark.parametrize(
    "answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["169.254.169.254"], ["fe80::1%1"]]
)
def test_a_name_with_any_private_address_is_refused(
    answer: list[str], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", _unreachable)
    port = receiver.url.rsplit(":", 1)[1]
    with pytest.raises(Refused) as refused:
        post(f"http://inner.example:{port}/", Rules(allow_http=True), Names(answer))
    assert receiver.calls == []
    assert not any(a in str(refused.value) for a in answer)


async def _unreachable(*_: object, **__: object) -> httpcore.AsyncNetworkStream:
    raise AssertionError("no connection may be tried")


def test_rebinding_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is public, every later one loopback: the number that was checked is the
    one that is connected to, and there is no second question."""
    connected: list[tuple[str, int]] = []

    async def connect(_: object, host: str, port: int, *__: object) -> httpcore.AsyncNetworkStream:
        connected.append((host, port))
        raise httpcore.ConnectError("refused")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    monkeypatch.setattr(socket, "getaddrinfo", _unreachable)
    names = Names(["93.184.216.34", "2606:2800::1"], ["127.0.0.1"])
    with pytest.raises(Unanswered):
        post("https://rebind.example/hook", STRICT, names)
    assert names.asked == ["rebind.example"]
    assert connected == [("93.184.216.34", 443), ("2606:2800::1", 443)]


def test_what_arrives(receiver: Receiver) -> None:
    port = receiver.url.rsplit(":", 1)[1]
    names = Names(["127.0.0.1"])
    url = receiver.on("/a?b=c", (202, {"Retry-After": "7"}, b"ignored"))
    assert url
    answer = post(f"http://Inner.example:{port}/a?b=c#d", OPEN, names)
    assert answer.status == 202
    assert answer.headers["retry-after"] == "7"
    (call,) = receiver.calls
    assert call.body == b"{}"
    assert call.headers["host"] == f"inner.example:{port}"
    assert call.headers["x-a"] == "b"
    assert names.asked == ["inner.example"]


def test_the_next_address_is_tried(receiver: Receiver) -> None:
    port = receiver.url.rsplit(":", 1)[1]
    answer = post(f"http://two.example:{port}/", OPEN, Names(["127.0.0.2", "127.0.0.1"]))
    assert answer.status == 204


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    url = receiver.on("/from", (302, {"Location": receiver.url + "/to"}, b""))
    assert post(url, OPEN).status == 302
    assert receiver.to("/to") == []


def test_a_proxy_of_the_environment_is_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(receiver.url + "/", OPEN).status == 204


def test_a_large_answer_is_left_off(receiver: Receiver) -> None:
    url = receiver.on("/big", (200, {}, b"x" * 30_000_000))
    assert post(url, OPEN).status == 200


def test_a_silent_receiver_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rules = Rules(allow_http=True, allow_private=True, seconds=0.2)
        with pytest.raises(Unanswered, match="in time"):
            post(f"http://127.0.0.1:{port}/", rules)


def test_a_receiver_that_drips_is_given_up() -> None:
    """Each byte comes in time; the whole does not."""
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not stop.wait(0.02):
                try:
                    connection.sendall(b".")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        rules = Rules(allow_http=True, allow_private=True, seconds=0.5)
        with pytest.raises(Unanswered, match="in time"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", rules)
        stop.set()
        thread.join()


def test_not_http(monkeypatch: pytest.MonkeyPatch) -> None:
    def greet(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"220 mail ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=(server,))
        thread.start()
        with pytest.raises(Unanswered, match="not HTTP"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", OPEN)
        thread.join()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unanswered, match="no connection"):
        post(f"http://127.0.0.1:{port}/", OPEN)


def test_unknown_name() -> None:
    with pytest.raises(Unanswered, match="not found"):
        post("https://nothing.invalid/", STRICT)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of hook.example, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine: apt-get install openssl")
    file = tmp_path_factory.mktemp("tls") / "hook.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", file, "-out", file.with_suffix(".crt"), "-days", "2", "-subj",
         "/CN=hook.example", "-addext", "subjectAltName=DNS:hook.example"],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


def test_tls_is_checked_against_the_name(certificate: Path) -> None:
    """The connection goes to a number; SNI and certificate are those of the name."""
    spoken: list[str | None] = []
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(certificate)
    serves.sni_callback = lambda _socket, name, _context: spoken.append(name)
    trusts = ssl.create_default_context(cafile=certificate.with_suffix(".crt"))
    rules = Rules(allow_private=True, seconds=10)
    with receiving(serves, "hook.example") as receiver:
        names = Names(["127.0.0.1"])
        assert post(receiver.url + "/x", rules, names, tls=trusts).status == 204
        assert spoken == ["hook.example"]
        assert receiver.calls[0].headers["host"] == receiver.url.removeprefix("https://")
        other = receiver.url.replace("hook.", "other.")
        with pytest.raises(Unanswered, match="TLS"):
            post(other, rules, names, tls=trusts)
        with pytest.raises(Unanswered, match="TLS"):
            post(receiver.url, rules, names)
        assert len(receiver.calls) == 1
