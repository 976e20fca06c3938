"""Memory that a training step frees is kept for the next one, which asks for the same sizes again."""

import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Have the C library hand freed blocks back to us and not to the kernel; return whether it does.

    By default every tensor above 32 MB is mapped anew, and each of its pages is a fault: a fifth of a CPU's time for a
    PPO update. One arena for all threads, for the backward pass has one of its own. Only glibc has these settings;
    elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl and macOS have none, Windows no such library
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
