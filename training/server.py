"""python -m training serve: the embedded inference server, from its command line to its last answer."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import torch
import uvicorn

from training.config import ConfigError
from training.inference import Engine
from training.models import resolve_dtype
from training.policies import load_policy
from training.policy_table import DEFAULT_NAMES, PolicyTable
from training.serving_app import AppSettings, ServingApp
from training.serving_protocol import Limits

# Longer than clients keep an idle connection (httpx: 5 s): the one who closes first must not be the one who is sent to.
KEEP_ALIVE_S = 75
# TGI's own grace period: answers under way get this long after SIGTERM.
DRAIN_S = 90
log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT, then answer what is under way; return the exit code."""
    parsed = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    torch.set_num_threads(parsed.threads)
    try:
        # Bound before the model is loaded, so that a taken port is known at once; nobody is accepted until it is.
        listener = _bind(parsed.host, parsed.port)
        return _serve(parsed, listener)
    except ConfigError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 2


def _serve(parsed: argparse.Namespace, listener: socket.socket) -> int:
    length = parsed.max_total_tokens
    dtype = resolve_dtype(parsed.dtype)
    first = load_policy(name=parsed.name, path=parsed.model, dtype=dtype, slots=parsed.batch_size, length=length)
    engine = Engine(threads=parsed.threads)
    table = PolicyTable(engine, dtype=dtype, slots=parsed.batch_size, length=length, most=parsed.max_policies)
    table.add_first(first)
    settings = AppSettings(
        limits=Limits(max_total_tokens=length, max_input_tokens=parsed.max_input_tokens or length - 1),
        max_concurrent=parsed.max_concurrent,
        payload_limit=parsed.payload_limit,
        admin_token=os.environ.get(parsed.admin_token_env, ""),
    )
    app = ServingApp(engine, table, settings).starlette()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        # The client's address decides who may administer: no header may change it.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    engine.start()
    listener.listen(parsed.max_concurrent)
    address = listener.getsockname()
    log.info("serving policy %s on http://%s:%d", parsed.name, address[0], address[1])
    try:
        asyncio.run(_Server(config).serve(sockets=[listener]))
    finally:
        engine.close()
    log.info("stopped")
    return 0


class _Server(uvicorn.Server):
    """uvicorn raises a handled signal again when it is done; a server that drained as it was told ends with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}") from error
    listener.set_inheritable(False)
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training serve", description=__doc__)
    parser.add_argument("--model", required=True, help="a Hugging Face directory or hub name, or a stage's output")
    parser.add_argument("--name", type=_policy_name, default="base", help="what its policy is called")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one, which the log names")
    parser.add_argument("--threads", type=_at_least_one, default=os.cpu_count() or 1, help="threads of each step")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--batch-size", type=_at_least_one, default=16, help="answers that grow at the same time")
    parser.add_argument("--max-concurrent", type=_at_least_one, default=128, help="more requests are answered by 429")
    parser.add_argument("--max-policies", type=_at_least_one, default=4)
    parser.add_argument("--max-total-tokens", type=_at_least_one, default=2048, help="of a prompt and its answer")
    parser.add_argument("--max-input-tokens", type=_at_least_one)
    parser.add_argument("--payload-limit", type=_at_least_one, default=2_000_000, help="bytes of a request's body")
    parser.add_argument("--admin-token-env", default="TRAINING_ADMIN_TOKEN", help="variable that holds the token")
    return parser


def _policy_name(text: str) -> str:
    if text in DEFAULT_NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is reserved")
    return text


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
