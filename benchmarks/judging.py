"""How many judgments a second the site takes, and how long an annotator waits for the next task.

    python benchmarks/judging.py [--tasks 20000] [--annotators 16] [--seconds 20] [--training]

Annotators in a closed loop over the HTTP API of a web server with two processes, on services and a database made for
this run and removed after it. Server, PostgreSQL and clients share the machine. With --training the same is measured
once more while a trainer runs as a round runs it: at low priority, PPO on the base model in DATA_DIR/models/base.
Prints one JSON object. benchmarks/beside_label_studio.py measures the peer beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import OurSite, judge_for
from benchmarks.stand import ROOT, services_of_a_run, web_server

SLUG = "load"
# A round's own priority: feedback_app.rounds.supervisor.NICENESS.
NICENESS = 10
TRAINER_PATIENCE_S = 180


@contextmanager
def trainer(policy: Path) -> Iterator[None]:
    """Run PPO without an end beside the block, from its first update on."""
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-ppo-") as name:
        folder = Path(name)
        prompts = [{"prompt": [{"role": "user", "content": f"What is {n} plus {n}?"}]} for n in range(64)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
        (folder / "length.py").write_text(
            "def reward(prompts, responses):\n    return [-float(len(r)) for r in responses]\n"
        )
        (folder / "ppo.toml").write_text(
            f'policy = "{policy}"\nreward = "length:reward"\nprompts = "{folder}/prompts.jsonl"\nupdates = 1000\n'
            "rollout_batch = 8\nresponse_length = 32\n"
        )
        files = ["--config", str(folder / "ppo.toml"), "--output", str(folder / "out")]
        process = subprocess.Popen(
            [sys.executable, "-m", "training", "ppo", *files], cwd=ROOT, stdout=sys.stderr,
            env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}, preexec_fn=_give_way,
        )  # fmt: skip
        try:
            _wait_for_update(process, folder / "out" / "progress.jsonl")
            yield
            if process.poll() is not None:
                raise RuntimeError("the trainer ended while it was measured beside")
        finally:
            process.terminate()
            process.wait(60)


def _give_way() -> None:
    os.nice(NICENESS)


def _wait_for_update(process: subprocess.Popen[bytes], progress: Path) -> None:
    deadline = time.monotonic() + TRAINER_PATIENCE_S
    while not (progress.exists() and progress.read_text().strip()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the trainer made no update")
        time.sleep(0.5)


def main() -> int:
    """Prepare, measure, report, and remove what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--annotators", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--training", action="store_true", help="once more while a trainer runs")
    parser.add_argument("--policy", type=Path, default=Path(os.environ.get("DATA_DIR", "var")) / "models" / "base")
    options = parser.parse_args()
    policy = options.policy.resolve()
    report: dict[str, Any] = {"tasks": options.tasks, "annotators": options.annotators}
    with services_of_a_run():
        from benchmarks.annotate import prepare

        tokens = prepare(slug=SLUG, tasks=options.tasks, overlap=3, annotators=options.annotators)
        with web_server() as port:
            site = OurSite(port=port, slug=SLUG)
            report |= judge_for(site, tokens, options.seconds).report()
            if options.training:
                with trainer(policy):
                    report["while_training"] = judge_for(site, tokens, options.seconds).report()
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
