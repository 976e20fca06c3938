"""python -m training STAGE --config FILE.toml --output DIR [--set key=value ...] [--resume]

Stages: pretrain, sft, reward, ppo, evaluate, generate; and `serve --model DIR --port N`.
Exit codes: 0 done; 2 bad config or data, one line that names the key or the file and line; 130 stopped, resumable.
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

from training.config import STAGES, ConfigError, load_config
from training.lifeline import hold_lifeline
from training.records import DataError


def main(arguments: list[str]) -> int:
    """Run one stage; return its exit code."""
    hold_lifeline()
    if arguments[:1] == ["serve"]:
        from training.server import main as serve

        return serve(arguments[1:])
    parsed = _parser().parse_args(arguments)
    # Until a stage's loop asks for signals itself, and after it, SIGTERM ends as Ctrl-C does: with 130.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        text = Path(parsed.config).read_text(encoding="utf-8") if parsed.config else ""
        config = load_config(parsed.stage, text, parsed.set)
        return _run(parsed.stage, config, Path(parsed.output), parsed.resume)
    except (ConfigError, DataError, FileExistsError) as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 2
    except UnicodeDecodeError as error:
        print(f"--config {parsed.config}: not UTF-8: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename != parsed.config:
            raise
        print(f"--config {parsed.config}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(stage: str, config: object, output: Path, resume: bool) -> int:
    from training.checkpoint import OutputDirectory, Stopped

    directory = OutputDirectory(output, stage=stage, config=config, resume=resume)  # type: ignore[arg-type]
    if directory.done:
        print(f"{output}: is done already", file=sys.stderr)
        return 0
    try:
        importlib.import_module(f"training.{stage}").run(config, directory)
    except Stopped:
        print(f"{output}: stopped; --resume goes on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.split("\n", maxsplit=1)[0])
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
