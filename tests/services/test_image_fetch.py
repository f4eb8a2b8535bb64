"""The fetch against real sockets: nothing refused is connected to, names are pinned, no server can hold or flood us."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from receiver import receiving

from serve_app.errors import ImageTooLarge, ImageUrlFailed, ImageUrlForbidden, ImageUrlInvalid
from serve_app.images.fetch import fetch
from serve_app.settings import Settings

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


def whole(body: bytes, *headers: bytes) -> bytes:
    return OK + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def to(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def allowing(*hosts: str, **values: int) -> Settings:
    return Settings(image_url_private_hosts=hosts, **values)  # type: ignore[arg-type]


def resolving(*answers: list[str]) -> Callable[[str, int], Awaitable[list[str]]]:
    """A name server that gives these answers in turn."""
    left = list(answers)

    async def resolver(host: str, port: int) -> list[str]:
        return left.pop(0)

    return resolver


async def test_an_image_is_fetched_from_an_allowed_host() -> None:
    async with receiving(whole(PNG)) as server:
        assert await fetch(f"http://{server.here}/a/b.png?c=d#e", allowing(server.here)) == PNG
        assert await fetch(f"http://{server.here}/", allowing("127.0.0.1")) == PNG
    request = server.got[0]
    assert request.line == "GET /a/b.png?c=d HTTP/1.1"
    assert (request.headers["host"], request.headers["accept-encoding"]) == (server.here, "identity")


async def test_a_refused_url_opens_no_connection() -> None:
    async with receiving(whole(PNG)) as server:
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1"):
            with pytest.raises((ImageUrlForbidden, ImageUrlInvalid)):
                await fetch(f"http://{host}:{server.port}/", Settings())
        with pytest.raises(ImageUrlForbidden):  # another port of an allowed host
            await fetch(f"http://{server.here}/", allowing("127.0.0.1:1"))
        with pytest.raises(ImageUrlForbidden):
            await fetch("http://images.example.org/", Settings(), resolver=resolving(["127.0.0.1"]))
        assert server.connections == 0


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """The name is asked for once per connection; a second answer, a private one, is never heard."""
    async with receiving(whole(PNG)) as server:
        name = f"images.example.org:{server.port}"
        resolver = resolving(["127.0.0.1"], ["10.0.0.1"])
        assert await fetch(f"http://{name}/", allowing(name), resolver=resolver) == PNG
        assert server.got[0].headers["host"] == name


async def test_a_redirect_is_checked_like_a_first_url() -> None:
    async with receiving(whole(PNG)) as inside:
        for location in (
            f"http://{inside.here}/",
            f"//{inside.here}/",
            f"http://localhost:{inside.port}/",
            "http://169.254.169.254/",
            "file:///etc/passwd",
        ):
            async with receiving(to(location)) as outside:
                with pytest.raises((ImageUrlForbidden, ImageUrlInvalid)):
                    await fetch(f"http://{outside.here}/", allowing(outside.here))
                assert outside.connections == 1
        assert inside.connections == 0


async def test_a_redirected_name_that_turns_private_is_refused() -> None:
    """DNS rebinding between two hops: each hop asks again and checks again."""
    async with receiving(to("http://images.example.org/next")) as server:
        name = f"images.example.org:{server.port}"
        with pytest.raises(ImageUrlForbidden):
            await fetch(f"http://{name}/", allowing(name), resolver=resolving(["127.0.0.1"], ["127.0.0.1"]))
        assert server.connections == 1


async def test_three_redirects_are_followed_and_no_more() -> None:
    down = [to(f"/{left}") for left in (3, 2, 1, 0)]
    async with receiving(*down[1:], whole(PNG), *down) as server:
        assert await fetch(f"http://{server.here}/3", allowing(server.here)) == PNG
        with pytest.raises(ImageUrlFailed, match="more than 3 times"):
            await fetch(f"http://{server.here}/4", allowing(server.here))
        assert [message.line.split()[1] for message in server.got] == ["/3", "/2", "/1", "/0", "/4", "/3", "/2", "/1"]
        assert server.connections == 8


async def test_a_dripping_server_ends_at_the_deadline() -> None:
    gone = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n")
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async with receiving(drip) as server:
        with pytest.raises(ImageUrlFailed, match=r"within 0\.2 seconds"):
            await fetch(f"http://{server.here}/", allowing(server.here), deadline_s=0.2)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_silent_server_ends_at_the_deadline() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with receiving(silent) as server:
        with pytest.raises(ImageUrlFailed, match="within"):
            await fetch(f"http://{server.here}/", allowing(server.here), deadline_s=0.1)


async def test_an_announced_size_beyond_the_limit_is_refused_unread() -> None:
    async with receiving(OK + b"Content-Length: 5000000000\r\n\r\n") as server:
        with pytest.raises(ImageTooLarge):
            await fetch(f"http://{server.here}/", allowing(server.here))


async def test_an_endless_body_is_cut_at_the_limit() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            sent += 65536
            await writer.drain()

    async with receiving(flood) as server:
        with pytest.raises(ImageTooLarge, match="1 MiB"):
            await fetch(f"http://{server.here}/", allowing(server.here, image_max_bytes=2**20))
    assert sent < 32 * 2**20


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n", "status 206"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "redirects more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "Content-Type"),
        (whole(gzip.compress(PNG), b"Content-Encoding: gzip"), "compressed"),
        (OK + b"Content-Length: 500\r\n\r\nshort", "broke off"),
        (OK + b"Content-Length: 9" + b"9" * 5000 + b"\r\n\r\n", "broke off"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, "broke off"),
        (b"", "broke off"),
    ],
)
async def test_other_answers_fail_with_a_reason(answer: bytes, words: str) -> None:
    async with receiving(answer) as server:
        with pytest.raises(ImageUrlFailed, match=words):
            await fetch(f"http://{server.here}/", allowing(server.here))


@pytest.mark.parametrize("kind", [b"application/octet-stream", b"IMAGE/TIFF; x=y", None])
async def test_images_without_an_image_type_are_taken(kind: bytes | None) -> None:
    header = b"Content-Type: " + kind + b"\r\n" if kind else b""
    answer = b"HTTP/1.1 200 OK\r\n" + header + b"Content-Length: 3\r\n\r\nabc"
    async with receiving(answer) as server:
        assert await fetch(f"http://{server.here}/", allowing(server.here)) == b"abc"


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    async with receiving(whole(PNG)) as server:
        name = f"images.example.org:{server.port}"
        resolver = resolving(["127.9.9.9", "127.0.0.1"])
        assert await fetch(f"http://{name}/", allowing(name), resolver=resolver) == PNG


async def test_a_dead_host_fails() -> None:
    async with receiving(b"") as server:
        dead = server.here
    with pytest.raises(ImageUrlFailed, match="could not be reached"):
        await fetch(f"http://{dead}/", allowing(dead))


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for `name` and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_tls_asks_for_the_name_and_distrusts_a_stranger(tmp_path: Path) -> None:
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate(tmp_path, "images.example.org"))
    tls.sni_callback = lambda connection, name, context: names.append(name)
    async with receiving(whole(PNG), tls=tls) as server:
        host = f"images.example.org:{server.port}"
        with pytest.raises(ImageUrlFailed):
            await fetch(f"https://{host}/", allowing(host), resolver=resolving(["127.0.0.1"]))
    assert names == ["images.example.org"]
    assert server.got == []
