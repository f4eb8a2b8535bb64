"""URLs by which one might reach the inside of a network, by family, and those that lead outside.

`{port}` is where a listener inside waits. Ports are left out where 80 or 443 must not hide another reason to refuse.
"""

from __future__ import annotations

from typing import Final

LOOPBACK = ("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0.1.2.3")  # noqa: S104
PRIVATE = ("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255")
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "169.254.0.1")
SHARED_AND_RESERVED = (
    *("100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1"),
    *("198.19.255.255", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
)
V6 = (
    *("::", "::1", "0:0:0:0:0:0:0:1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
    *("100::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1", "2001:10::1", "2001:20::1"),
)
V4_INSIDE_V6 = (
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "::127.0.0.1", "::8.8.8.8"),
    *("::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::", "2001:0:a9fe:a9fe::1", "2001::1", "2002:808:808::1", "64:ff9b:1::808:808"),
)

FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    **{
        family: tuple(f"{scheme}://{host}{path}" for host in hosts for scheme in ("http", "https"))
        for family, hosts, path in (
            ("loopback", LOOPBACK, "/"),
            ("private", PRIVATE, "/"),
            ("metadata", METADATA, "/latest/meta-data/"),
            ("shared and reserved", SHARED_AND_RESERVED, "/"),
            ("IPv6", [f"[{host}]" for host in V6], "/"),
            ("IPv4 inside IPv6", [f"[{host}]" for host in V4_INSIDE_V6], "/"),
        )
    },
    "scopes": ("https://[::1%25lo]/", "https://[fe80::1%25lo]/", "https://[::1%lo]/"),
    "numbers": (
        *("https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://0x7f.1/", "https://127.1/"),
        *("https://127.0.1/", "https://0177.0.0.1/", "https://0x7f.0x0.0x0.0x1/", "https://127.0.0.1.1/"),
        *("https://169.254.43518/", "https://1.2.3.256/", "https://0/", "https://00000177.0.0.1/"),
    ),
    "the listener, spelled": (
        *("http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://127.1:{port}/"),
        *("http://[::ffff:127.0.0.1]:{port}/", "http://0:{port}/", "http://2130706433:{port}/"),
        *("http://LocalHost:{port}/", "http://localhost.:{port}/", "http://0x7f.1:{port}/", "http://0.0.0.0:{port}/"),
    ),
    "user names and fragments": (
        *("https://example.org@127.0.0.1:{port}/", "https://127.0.0.1:{port}@example.org/", "https://@example.org/"),
        *("https://user:password@example.org/", "https://127.0.0.1:{port}#@example.org/"),
        *("https://127.0.0.1:{port}?@example.org/", "https://example.org\\@127.0.0.1:{port}/"),
        *("https://127.0.0.1:{port}\\@example.org/", "https://%31@example.org/"),
    ),
    "Unicode": (
        *("https://１２７.0.0.1/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://127．0．0．1/"),
        *("https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "https://ｌｏｃａｌｈｏｓｔ/", "https://localhoſt/", "https://127｡0｡0｡1/"),
        *("https://127%2e0%2e0%2e1/", "https://%6c%6f%63%61%6c%68%6f%73%74/", "https://exam\u200bple.local/"),
    ),
    "names of inside": (
        *("https://localhost/", "https://LOCALHOST/", "https://LOCALHOST./", "https://a.localhost/", "https://redis/"),
        *("https://redis-0.redis.svc/", "https://postgres.default.svc.cluster.local/", "https://printer.local/"),
        *("https://metadata.google.internal/", "https://router.lan/", "https://nas.home.arpa/", "https://x.corp/"),
        *(
            "https://kubernetes.default.svc/",
            "https://host.docker.internal/",
            "https://x.onion/",
            "https://db.intranet/",
        ),
    ),
    "ports": (
        *("https://8.8.8.8:22/", "https://8.8.8.8:6379/", "https://example.org:8080/", "https://[2620:fe::fe]:25/"),
        *(
            "https://example.org:99999/",
            "https://example.org:0/",
            "http://example.org:8080/",
            "https://example.org:8443/",
        ),
    ),
    "schemes": (
        *("ftp://example.org/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "dict://127.0.0.1:{port}/"),
        *("data:image/png;base64,AAAA", "jar:http://example.org/", "//127.0.0.1:{port}/", "127.0.0.1:{port}/"),
        *("ws://127.0.0.1:{port}/", "unix:/var/run/docker.sock", "javascript:alert(1)", "http:127.0.0.1:{port}"),
    ),
    "white space and line ends": (
        *("https://127.0.0.1:{port}\r\nHost: x/", "https://example.org/\r\nX: y", " https://example.org/"),
        *("https://example.org/\n", "https://exam\tple.org/", "https://example.org/\x00", "https://exam ple.org/"),
        *("https://example.org\r\n.local/", "https://example.org/%\x7f"),
    ),
    "broken and over-long": (
        *("", "https://", "https:///", "https://?a", "https://[::1", "https://" + "a" * 3000 + ".org/"),
        *("https://" + "a" * 70 + ".org/", "https://" + "a." * 150 + "org/", "https://example.org/" + "x" * 3000),
        *(
            "https://\ud800.org/",
            "https://.../",
            "https://a..b/",
            "https://example.org:x/",
            "http://exa_mple.org\\.local/",
        ),
    ),
}
"""Refused by their text: nothing is looked up, nothing is connected to."""

PLACES: Final = {
    *("loopback", "private", "metadata", "shared and reserved", "IPv6", "IPv4 inside IPv6", "scopes"),
    *("the listener, spelled", "names of inside", "ports"),
}
"""Families of URLs that are well written: they are forbidden, not invalid."""

INSIDE: Final[dict[str, list[str]]] = {
    "loopback.example.org": ["127.0.0.1"],
    "zero.example.org": ["0.0.0.0"],  # noqa: S104
    "private.example.org": ["10.1.2.3"],
    "metadata.example.org": ["169.254.169.254"],
    "v6.example.org": ["::1"],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "nat64.example.org": ["64:ff9b::7f00:1"],
    "scoped.example.org": ["fe80::1%eth0"],
    "mixed.example.org": ["93.184.215.14", "127.0.0.1"],
    "mixed-v6.example.org": ["2606:4700::1111", "::1"],
    "last-of-many.example.org": ["93.184.215.14", "93.184.215.15", "93.184.215.16", "93.184.215.17", "10.0.0.1"],
    "nonsense.example.org": ["not an address"],
    "nothing.example.org": [],
}
"""Refused by what a name server answers: any address that is not public, wherever in the answer."""

GOOD: Final = (
    *(
        "https://example.org/",
        "https://example.org",
        "https://EXAMPLE.org/Path?q=1&r=%20#part",
        "https://example.org./",
    ),
    *("https://example.org:443/a", "https://hooks.example.org/a/b/c", "https://a.b.c.d.e.example.org/"),
    *("https://xn--bcher-kva.example/", "https://bücher.example/ü", "https://under_score.example.org/"),
    *("https://8.8.8.8/", "https://93.184.215.14:443/x", "https://172.15.255.255/", "https://172.32.0.1/"),
    *("https://100.63.255.255/", "https://[2606:4700:4700::1111]/", "https://[2a00:1450::1]:443/"),
    *(
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::808:808]/",
        "https://localhost.example.org/",
        "https://10.0.0.1.example.org/",
    ),
    *("https://example.org/http://127.0.0.1/", "https://example.org/?u=user@127.0.0.1", "https://example.org:80/"),
    "https://" + "a" * 63 + ".example.org/" + "x" * 1900,
)
"""Pass, for images and for webhooks, in production too."""
