"""One signed POST to an address that somebody typed: never a private one, no redirect followed, all within a deadline.

The address is resolved once and that very one is connected to, so a name that changes its mind in between leads nowhere
else; a proxy of the environment is not used, for it would resolve the name anew.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from feedback_app.notifications.signing import (
    EVENT_HEADER,
    KIND_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    signature_of,
)

DEADLINE_S = 10.0
NAT64 = IPv6Network("64:ff9b::/96")
Network = IPv4Network | IPv6Network
EVERYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


class NotSent(RuntimeError):
    """The message did not arrive; the message says why, status is the HTTP status of the answer, 0 without one."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Message:
    """What is posted: a JSON body, and what it is called."""

    url: str
    secret: str
    body: bytes
    event: str
    kind: str


def split_url(url: str) -> SplitResult:
    """Return the parts of an address that can be posted to; raises NotSent for one that cannot."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise NotSent(f"the address cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotSent("an https:// address is needed")
    if parts.username or parts.password:
        raise NotSent("an address with a name or password in it is not taken")
    return parts


def post_signed(message: Message, *, allowed: Sequence[Network] = (), deadline_s: float = DEADLINE_S) -> int:
    """Post a message and return the status of its answer, which is one of 200 to 299.

    allowed: private networks that may be reached all the same, by plain http too.

    Raises:
        NotSent: it was not taken, or could not be sent.
    """
    parts = split_url(message.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    address = _resolve(host, port, parts.scheme, allowed)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    connection = _Connection(host, port, address, context, deadline_s)
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "rlhf-loop",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: signature_of(secret=message.secret, timestamp=timestamp, body=message.body),
        EVENT_HEADER: message.event,
        KIND_HEADER: message.kind,
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with connection.within_deadline():
        try:
            connection.request("POST", target, body=message.body, headers=headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.late:
                raise NotSent(f"no answer within {deadline_s:.0f} s") from error
            raise NotSent(f"{type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        raise NotSent(f"answered {status}", status=status)
    return status


def _resolve(host: str, port: int, scheme: str, allowed: Sequence[Network]) -> str:
    """Return an address of the host that may be connected to."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotSent(f"{host} has no address: {error}") from error
    for *_rest, place in found:
        address = str(place[0])
        inside = any(_of_network(address, network) for network in allowed)
        if inside or (scheme == "https" and is_public(address)):
            return address
    if scheme != "https" and all(is_public(str(place[0])) for *_rest, place in found):
        raise NotSent("plain http is for addresses that the operator allows; take https")
    raise NotSent(f"{host} is a private address; the operator must allow it (WEBHOOK_NETWORKS)")


def is_public(address: str) -> bool:
    """Say whether an address leads out into the internet, looking through those that carry another inside."""
    ip = _plain(address)
    return ip.is_global and not ip.is_multicast


def _of_network(address: str, network: Network) -> bool:
    ip = _plain(address)
    return ip.version == network.version and ip in network


def _plain(address: str) -> IPv4Address | IPv6Address:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return ip
    if ip in NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    return inner or ip


class _Connection(http.client.HTTPConnection):
    """A connection to a given address under a host's name, cut when its time is over."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext | None, deadline_s: float) -> None:
        super().__init__(host, port, timeout=deadline_s)
        self.address, self.context, self.deadline_s = address, context, deadline_s
        self.late = False

    def connect(self) -> None:
        self.sock: Any = socket.create_connection((self.address, self.port), self.deadline_s)
        if self.context is not None:
            # Known before the handshake, so that the deadline can cut that too.
            self.sock = self.context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    @contextlib.contextmanager
    def within_deadline(self) -> Iterator[None]:
        """Cut the connection when the block has not ended in time; a socket's own timeout is one of each read alone."""
        timer = threading.Timer(self.deadline_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.close()

    def _cut(self) -> None:
        self.late = True
        with contextlib.suppress(OSError):
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
