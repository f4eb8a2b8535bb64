"""Which network addresses are public, and which names never lead to one.

`ipaddress.is_global` alone is not enough: it lets multicast, parts of the IETF block and the transition prefixes
through, and differs between Python versions.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

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
    """True for an address anyone on the Internet may reach. IPv4 inside IPv6 (mapped, NAT64) counts as that IPv4."""
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
    """True for names that only a private network answers (RFC 6761, 6762, 8375): single labels and reserved endings.

    They are refused before they are looked up, so that the answer cannot tell which of them exist.
    """
    return "." not in host or host.endswith(_LOCAL_SUFFIXES)
