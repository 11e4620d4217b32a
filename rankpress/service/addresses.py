"""Which internet addresses the service may call on a caller's behalf.

Allowed by what they are, not refused by a list of what they must not be: a public IPv4 address, or
global unicast IPv6 (2000::/3), and for one that carries an IPv4 address inside, that one too.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
SIX_TO_FOUR = IPv6Network("2002::/16")
TEREDO = IPv6Network("2001::/32")
# Where clouds hand out credentials; the last is a public address that answers inside Azure alone.
METADATA = frozenset(
    ip_address(a) for a in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)
# Reserved, and taken for public by ipaddress in some of the Python releases that we run on.
RESERVED = tuple(
    ip_network(n)
    for n in ("192.88.99.0/24", "192.0.0.0/24", "2001::/23", "2001:db8::/32", "3fff::/20")
)


def refusal(address: Address, *, allow_private: bool) -> str | None:
    """Why the address may not be called, in a few words; None when it may. `allow_private` allows
    private networks and loopback; never link-local, multicast or metadata addresses."""
    for one in _with_embedded(address):
        if (reason := _refusal(one, allow_private)) is not None:
            return reason
    return None


def _with_embedded(address: Address) -> Iterator[Address]:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            # The kernel calls the IPv4 address: nothing else about it matters.
            yield address.ipv4_mapped
            return
        if address in NAT64:
            yield IPv4Address(int(address) & 0xFFFFFFFF)
            return
        if address in SIX_TO_FOUR:
            yield IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
        elif address in TEREDO:
            yield IPv4Address(~int(address) & 0xFFFFFFFF)
    yield address


def _refusal(address: Address, allow_private: bool) -> str | None:
    if address in METADATA:
        return "a metadata address of a cloud"
    if address.is_unspecified:
        return "an unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local or (isinstance(address, IPv6Address) and address.scope_id):
        return "a link-local address"
    if address.is_loopback:
        return None if allow_private else "a loopback address"
    if any(address in network for network in RESERVED if network.version == address.version):
        return "a reserved address"
    if isinstance(address, IPv6Address):
        if address in GLOBAL_UNICAST and address.is_global:
            return None
        unique_local = address in IPv6Network("fc00::/7")
        return None if unique_local and allow_private else "not a public address"
    if address.is_reserved or address == IPv4Address("255.255.255.255"):
        return "a reserved address"
    if address.is_global:
        return None
    return None if allow_private else "a private address"
