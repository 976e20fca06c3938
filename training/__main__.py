"""python -m training STAGE --config FILE.toml --output DIR [--set key=value ...] [--resume]

Stages: pretrain, sft, reward, ppo, evaluate, generate, adopt; and `serve --model DIR --port N`.
`torchrun --nproc_per_node N -m training STAGE ...` trains with N processes, as `accelerate launch` does with GPUs or
MPI; evaluate, generate and adopt, which train nothing, are then done by the first alone.
Exit codes: 0 done; 1 a reward failed, one line that says which; 2 bad config or data, one line that names the key or
the file and line; 130 stopped. After 1 and 130 --resume goes on.
"""

import argparse
import importlib
import os
import signal
import sys
import warnings
from pathlib import Path

# Before torch is loaded: the same machine takes the same path through the maths library on every run.
os.environ.setdefault("MKL_CBWR", "AUTO")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait must sleep: spinning beside a busy process, sampling a rollout took 116 s in place of 6.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What goes wrong is one line on standard error, not one among a library's bars and notes.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from training.allocator import keep_freed_memory
from training.config import STAGES, ConfigError, StageConfig, load_config
from training.launcher import is_left_alone, launched
from training.lifeline import hold_lifeline
from training.records import DataError, RewardError

# Stages that several processes would gain nothing by, or would each write.
ALONE = ("evaluate", "generate", "adopt")


def main(arguments: list[str]) -> int:
    """Run one stage; return its exit code."""
    hold_lifeline()
    if arguments[:1] == ["serve"]:
        from training.server import main as serve

        return serve(arguments[1:])
    keep_freed_memory()
    parsed = _parser().parse_args(arguments)
    number, everyone = launched()
    if everyone > 1 and parsed.stage in ALONE:
        if number > 0:
            return 0
        everyone = 1
    if is_left_alone():
        _say("accelerate launch started one process: on CPUs it needs MPI for more, and torchrun does not")
    # Until a stage's loop asks for signals itself, and after it, SIGTERM ends as Ctrl-C does: with 130.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run_together(parsed) if everyone > 1 else _run(parsed)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run_together(parsed: argparse.Namespace) -> int:
    from training import processes

    with processes.joined():
        return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    try:
        text = _read_once(parsed.config) if parsed.config else ""
        return _run_stage(load_config(parsed.stage, text, parsed.set), parsed)
    except RewardError as error:
        _say(f"reward: {error}")
        return 1
    except (ConfigError, DataError, FileExistsError) as error:
        _say(str(error))
        return 2
    except UnicodeDecodeError as error:
        _say(f"--config {parsed.config}: not UTF-8: {error}")
        return 2
    except OSError as error:
        if error.filename != parsed.config:
            raise
        _say(f"--config {parsed.config}: {error.strerror}")
        return 2


def _read_once(path: str) -> str:
    """Return the config's text; it may be a pipe, which one process alone can read."""
    if launched()[1] == 1:  # a bad config is told before torch is loaded
        return Path(path).read_text(encoding="utf-8")
    from training import processes

    return processes.first_does(lambda: Path(path).read_text(encoding="utf-8"))


def _say(text: str) -> None:
    if (number := launched()[0]) > 0:
        text = f"process {number}: {text}"
    print(text.replace("\n", " "), file=sys.stderr)


def _run_stage(config: StageConfig, parsed: argparse.Namespace) -> int:
    from training.checkpoint import OutputDirectory, Stopped

    directory = OutputDirectory(Path(parsed.output), stage=parsed.stage, config=config, resume=parsed.resume)
    if directory.done:
        _say(f"{parsed.output}: is done already")
        return 0
    try:
        importlib.import_module(f"training.{parsed.stage}").run(config, directory)
    except Stopped:
        directory.bar.close()
        _say(f"{parsed.output}: stopped; --resume goes on")
        return 130
    finally:
        directory.bar.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    # All of it, for `serve` and the exit codes are nowhere else in the help.
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--config", help="a TOML file, or a pipe; read once")
    parser.add_argument("--output", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="wins over the file")
    parser.add_argument("--resume", action="store_true", help="go on in an output directory that was begun")
    return parser


if __name__ == "__main__":
    if not sys.warnoptions:  # what libraries will rename one day is nothing to the reader of an error
        warnings.simplefilter("ignore")
    sys.exit(main(sys.argv[1:]))
