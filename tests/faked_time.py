"""libfaketime's library, which gives one process another time than the machine's: built for Linux on x86-64 alone."""

import importlib.util
from pathlib import Path

# Waiting is measured by the clock that nobody can set, there as here; a timestamp file is read anew at each look.
HABITS = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}


def library() -> Path | None:
    """Return the shared library to be preloaded, None where there is none for this machine."""
    spec = importlib.util.find_spec("libfaketime")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
