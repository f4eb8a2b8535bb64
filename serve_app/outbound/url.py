"""URLs that users hand in: which the service may request, decided by their text, and which addresses are public.

Nothing is looked up or connected to here. An accepted URL is a `Target`, the one thing `connect.exchange` takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx2

from serve_app.errors import RequestError

MAX_URL: Final = 2048
PUBLIC_PORTS: Final = (80, 443)

_HOST: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Policy:
    """Which URLs of one kind are allowed, and the problems that refuse the others."""

    name: str
    """The kind as in a sentence: "image URL"."""
    invalid: type[RequestError]
    forbidden: type[RequestError]
    private_hosts: tuple[str, ...] = ()
    """`host` or `host:port` that is allowed although private, on any port; for development."""
    schemes: tuple[str, ...] = ("http", "https")

    def not_public(self) -> RequestError:
        """One answer for all private addresses, whether they exist or not."""
        return self.forbidden(f"The {self.name} does not lead to a public address.")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that its policy allows; the addresses of its host are still to be checked."""

    url: httpx2.URL
    host: str
    port: int
    private: bool
    """True if the policy names the host."""
    policy: Policy

    @property
    def is_address(self) -> bool:
        """True if the host is an IP address, so that no look-up is needed."""
        return _is_address(self.host)


def read_url(url: str, policy: Policy) -> Target:
    """The target of a URL. Raises the policy's problems."""
    invalid, name = policy.invalid, policy.name
    if len(url) > MAX_URL:
        raise invalid(f"The {name} is longer than {MAX_URL} characters.")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise invalid(f"The {name} holds spaces, control characters or backslashes.")
    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode("ascii").lower().rstrip(".")
    except (httpx2.InvalidURL, ValueError) as error:
        raise invalid(f"The {name} cannot be parsed.") from error
    if parsed.scheme not in policy.schemes or not host:
        beginnings = " or ".join(f"{scheme}://" for scheme in policy.schemes)
        raise invalid(f"The {name} must begin with {beginnings} and name a host.")
    if re.match(r"[^/?#]*//[^/?#]*@", url):
        raise invalid(f"The {name} must not carry a user name or a password.")
    if len(host) > 253 or not (_is_address(host) or _HOST.fullmatch(host)):
        raise invalid(f"The host of the {name} is not a valid host name.")
    port = parsed.port
    if port is None:  # `or` would replace port 0
        port = 443 if parsed.scheme == "https" else 80
    target = Target(parsed, host, port, _is_private_exception(host, port, policy), policy)
    if not target.private:
        _check(target)
    return target


def _is_private_exception(host: str, port: int, policy: Policy) -> bool:
    shown = f"[{host}]" if ":" in host else host
    listed = {entry.lower() for entry in policy.private_hosts}
    return bool({host, shown, f"{shown}:{port}"} & listed)


def _check(target: Target) -> None:
    policy = target.policy
    if target.port not in PUBLIC_PORTS:
        raise policy.forbidden(f"Port {target.port} is not allowed for this {policy.name}; 80 and 443 are.")
    if target.is_address:
        if not is_public(target.host):
            raise policy.not_public()
    elif re.fullmatch(r"\d+|0x[0-9a-f]*", target.host.rsplit(".", 1)[-1]):
        raise policy.invalid(f"The host of the {policy.name} is a number, but not an IP address in its usual form.")
    elif is_local_name(target.host):
        raise policy.not_public()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


_FORBIDDEN_V4 = (
    IPv4Network("192.0.0.0/24"),  # RFC 6890 protocol assignments; a cloud's metadata service lives here
    IPv4Network("192.88.99.0/24"),  # RFC 7526 6to4 relays
    IPv4Network("168.63.129.16/32"),  # the host agent of a cloud, on a public number
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
_FORBIDDEN_V6 = (
    IPv6Network("2001::/23"),  # RFC 2928: Teredo, ORCHID, benchmarks
    IPv6Network("2001:db8::/32"),  # RFC 3849 documentation
    IPv6Network("2002::/16"),  # RFC 7526: 6to4 carries any IPv4 address
    IPv6Network("3fff::/20"),  # RFC 9637 documentation
)

_LOCAL_NAMES = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "private", "svc")
_LOCAL_SUFFIXES = (*(f".{name}" for name in _LOCAL_NAMES), ".home.arpa", ".in-addr.arpa", ".ip6.arpa", ".onion")


def is_public(text: str) -> bool:
    """True for an address that is reachable on the Internet. IPv4 inside IPv6 (mapped, NAT64) counts as that IPv4.

    `ipaddress.is_global` is not enough: it includes multicast, parts of the IETF block and the transition prefixes, and
    differs between Python versions."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return _public_v4(address)
    if address.scope_id is not None:
        return False
    if address in _MAPPED or address in _NAT64:
        return _public_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    return _public_v6(address)


def _public_v4(address: IPv4Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _FORBIDDEN_V4)


def _public_v6(address: IPv6Address) -> bool:
    if address not in _UNICAST or not address.is_global:
        return False
    return not any(address in network for network in _FORBIDDEN_V6)


def is_local_name(host: str) -> bool:
    """True for names that only private networks resolve (RFC 6761, 6762, 8375): single labels and reserved endings.

    They are refused without a look-up, so that the answer does not reveal which of them exist.
    """
    return "." not in host or host.endswith(_LOCAL_SUFFIXES)
