"""Memory that is freed is there for the next one who asks, without a fault for each of its pages."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# 20 times 40 MB, one after another: 10,240 pages of 4 kB each.
FAULTS = """
import resource, numpy
from training.allocator import keep_freed_memory
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = numpy.empty(40 * 2**20, dtype=numpy.uint8)
    block[::4096] = 1
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first: str) -> int:
    """Return how many pages were faulted in by 20 allocations of the same size."""
    command = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_block_freed_is_given_again_without_touching_the_kernel() -> None:
    assert faults("") > 5 * faults("assert keep_freed_memory()")
