"""Environment variables read as what they are to be; one that cannot be is told in a line, not in a traceback."""

import math
import os
from collections.abc import Callable
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

Value = TypeVar("Value")


def read(name: str, default: str, kind: Callable[[str], Value], allowed: str) -> Value:
    """Return a variable, or its default where it is empty, as `kind` makes it of text.

    Raises:
        ImproperlyConfigured: names the variable, what is allowed, and what it is.
    """
    text = os.environ.get(name, "").strip() or default
    try:
        return kind(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {allowed}, not {text!r}") from error


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds."""
    return lambda text: _within(int(text), least, most)


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a reader of finite numbers within bounds."""
    return lambda text: _within(float(text), least, most)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a reader of one of some words."""

    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return choose


Number = TypeVar("Number", int, float)


def _within(value: Number, least: float, most: float) -> Number:
    if not math.isfinite(value) or not least <= value <= most:
        raise ValueError(value)
    return value
