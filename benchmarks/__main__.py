"""Run what the README claims about speed, one benchmark after the other.

    python -m benchmarks [NAME ...]

Each is a program of its own that prints JSON; the machine should have nothing else to do. Exits with 1 where one fails.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Programs that need no arguments; the others prepare data for something else.
BENCHMARKS = {
    "judging": "next task and submit, 16 annotators, over HTTP",
    "datasets": "judged rows in and out",
    "queue_depth": "the next task with 1,000 and 1,000,000 tasks, and after 100,000 judged",
    "inference": "tokens a second of the inference server, beside its peers",
}


def main() -> int:
    """Run the named benchmarks, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Reproduce the README's figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    failed = []
    for name in names:
        print(f"== {name}: {BENCHMARKS[name]}", flush=True)
        began = time.monotonic()
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")], cwd=HERE.parent).returncode != 0:
            failed.append(name)
        print(f"   ({time.monotonic() - began:.0f} s)", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
