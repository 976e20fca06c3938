"""How often a password may be guessed: counted in the cache before it is looked at, so that no race buys more guesses.

An unknown name counts and waits like a known one, so nothing here tells whether a name exists.
"""

import hashlib
import time
import unicodedata
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest

WINDOW_S = 5 * 60
# For one name from one address: somebody who looks for a password tries a few, a program tries thousands.
MOST_FOR_NAME = 10
# For one address, whatever the names: a whole office may stand behind it.
MOST_FOR_ADDRESS = 100


class TooManyAttempts(Exception):
    """No more attempts for now; `seconds` says how long to wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many attempts: wait {seconds} s")
        self.seconds = seconds


def begin_attempt(*, name: str, address: str) -> None:
    """Count an attempt; only forget_attempt, on success, takes it back.

    Raises:
        TooManyAttempts: the limit of the name at this address, or of the address, was reached.
    """
    for key, most in ((_name_key(name, address), MOST_FOR_NAME), (_address_key(address), MOST_FOR_ADDRESS)):
        if _count(key) > most:
            since = cache.get(f"{key}:since", time.time())
            raise TooManyAttempts(max(1, round(since + WINDOW_S - time.time())))


def forget_attempt(*, name: str, address: str) -> None:
    """Take back what a right password was counted as, and the wrong ones before it for this name and address."""
    key = _name_key(name, address)
    cache.delete_many([key, f"{key}:since"])
    try:
        cache.decr(_address_key(address))
    except ValueError:
        pass  # its window ended since the attempt began


def address_of(request: HttpRequest) -> str:
    """Return where a request comes from; behind the proxy of production, what the proxy says.

    Of X-Forwarded-For only the last address is the proxy's own word. An IPv6 address is its /64: one customer has one.
    """
    address = str(request.META.get("REMOTE_ADDR", ""))
    if settings.PRODUCTION and (forwarded := request.META.get("HTTP_X_FORWARDED_FOR")):
        address = forwarded.rsplit(",", 1)[-1].strip()
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network(f"{parsed}/64", strict=False)) if isinstance(parsed, IPv6Address) else address


def _count(key: str) -> int:
    if cache.add(key, 1, WINDOW_S):
        cache.set(f"{key}:since", time.time(), WINDOW_S)
        return 1
    try:
        return int(cache.incr(key))
    except ValueError:  # the window ended between the two
        cache.set(key, 1, WINDOW_S)
        return 1


def _name_key(name: str, address: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return f"sign-in:{hashlib.sha256(f'{address} {folded}'.encode()).hexdigest()}"


def _address_key(address: str) -> str:
    return f"sign-in:{hashlib.sha256(address.encode()).hexdigest()}"
