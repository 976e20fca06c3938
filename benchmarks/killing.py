"""What can be broken under a running round, and how one sees from outside what became of it."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import psycopg
import redis
from celery import Celery

from feedback_app.embedded import valkey
from feedback_app.embedded.paths import database_url, postgres_dir, redis_url
from tests.loop.rounds import trainers_of
from tests.loop.stack import Stack, wait_until

KICK = "feedback_app.rounds.tasks.kick"
OVER = ("succeeded", "failed", "rejected", "cancelled")
# A part of the command line of each process that `make up` watches.
ROLES = {"web": "granian", "worker": "ctl@", "gpu-worker": "gpu@", "beat": " beat ", "inference": "training serve"}
RESTARTS_WITHIN_S = 90.0
# A fall is followed by a pause, each in a row by a longer one, and a trainer ends within seconds of its supervisor.
LEFT_AFTER_S = 15.0


class Site:
    """The running product as somebody sees it who may look into its database and at its processes."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.host = socket.gethostname()

    def client(self, token: str) -> httpx.Client:
        """Return a client of the API that bears a restart: a request that was not taken is sent again."""
        return httpx.Client(
            base_url=f"{self.stack.url}/api/v1", headers={"Authorization": f"Token {token}"}, timeout=60,
            transport=_Again(httpx.HTTPTransport(), 30.0),
        )  # fmt: skip

    # What is known of a round

    def ask(self, query: str, *values: object) -> tuple[Any, ...]:
        """Return the one row of a query, asked again while the database is away."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(database_url(self.stack.data_dir), connect_timeout=5) as connection:
                    row = connection.execute(query, values).fetchone()
                    assert row is not None
                    return row
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def state_of(self, round_id: str) -> str:
        """Return a round's state."""
        return str(self.ask("SELECT state FROM rounds_round WHERE id = %s", round_id)[0])

    def wait_for_end(self, round_id: str, seconds: float) -> None:
        """Wait until a round is over; AssertionError where it is not by then."""
        wait_until(lambda: self.state_of(round_id) in OVER, seconds, "the round is over")

    def wait_for_step(self, round_id: str, name: str, seconds: float) -> None:
        """Wait until a step has begun, or the round is over; at once where no step is named."""
        if not name:
            return
        query = "SELECT count(*) FROM rounds_round_step WHERE round_id = %s AND name = %s AND state <> 'pending'"
        begun = lambda: bool(self.ask(query, round_id, name)[0]) or self.state_of(round_id) in OVER  # noqa: E731
        wait_until(begun, seconds, f"step {name} begins")

    def is_held(self, round_id: str) -> bool:
        """Say whether a living worker has the round, or it is over."""
        query = "SELECT state, lease_owner, lease_until > now() FROM rounds_round WHERE id = %s"
        state, owner, valid = self.ask(query, round_id)
        if state in OVER:
            return True
        return state == "running" and bool(valid) and _is_alive(int(owner.rpartition(":")[2]))

    def live_number(self) -> int:
        """Return the number of the version that is live."""
        query = (
            "SELECT v.number FROM serving_deployment d JOIN serving_policy_version v ON v.id = d.live_id"
            " JOIN projects_project p ON p.id = d.project_id WHERE p.slug = 'letters'"
        )
        return int(self.ask(query)[0])

    def problems_after(self, round_id: str) -> list[str]:
        """Return what is wrong once a round is over: not succeeded, made twice, or anything left behind."""
        state, error, lease, policy = self.ask(
            "SELECT state, error, lease_until, policy_id FROM rounds_round WHERE id = %s", round_id
        )
        if state != "succeeded":
            return [f"{state}: {error}"]
        query = "SELECT count(*), count(*) FILTER (WHERE id = %s) FROM serving_policy_version WHERE round_id = %s"
        made, own = self.ask(query, policy, round_id)
        lives = self.ask("SELECT count(*) FROM serving_deployment WHERE live_id = %s", policy)[0]
        flips = self.ask("SELECT count(*) FROM serving_push WHERE policy_id = %s AND state = 'live'", policy)[0]
        facts = {
            "a lease is held still": lease is not None,
            f"{made} versions came of it": (made, own) != (1, 1),
            "its version is not live": lives != 1,
            f"it went live {flips} times": flips != 1,
            "a push runs still": bool(self.ask("SELECT count(*) FROM serving_push WHERE state = 'running'")[0]),
            "a step is not done": bool(
                self.ask("SELECT count(*) FROM rounds_round_step WHERE round_id = %s AND state <> 'done'", round_id)[0]
            ),
            "a trial or an assignment is reserved": bool(
                self.ask(
                    "SELECT (SELECT count(*) FROM rounds_trial WHERE state IN ('queued', 'running'))"
                    " + (SELECT count(*) FROM annotation_assignment WHERE state = 'reserved')"
                )[0]
            ),
        }
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left_over(), LEFT_AFTER_S, "nothing is left")
        return [words for words, holds in facts.items() if holds] + [
            f"left running: {line}" for line in self.left_over()
        ]

    def left_over(self) -> list[str]:
        """Return the command lines of processes of this product that nobody holds any more, or that train."""
        up = self.stack.up
        assert up is not None
        held = {up.pid, *(process.pid for process in up.children(recursive=True))}
        held |= {pid for pid in (self.postgres_pid(), valkey.server_pid(self.stack.data_dir)) if pid}
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                trains = str(self.stack.data_dir / "rounds") in command
                if trains or (process.pid not in held and self._is_ours(process) and process.ppid() not in held):
                    left.append(command or process.name())
        return left

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.environ().get("DATA_DIR") == str(self.stack.data_dir) and process.name() != "postgres"

    def give_up(self, round_id: str) -> None:
        """End a round that a run is done with, so that the next one can start."""
        with contextlib.suppress(psycopg.Error), psycopg.connect(database_url(self.stack.data_dir)) as connection:
            connection.execute(
                "UPDATE rounds_round SET state = 'cancelled', lease_until = NULL WHERE id = %s AND NOT state = ANY(%s)",
                (round_id, list(OVER)),
            )

    # Processes

    def postgres_pid(self) -> int:
        """Return PostgreSQL's first process, 0 where it does not run."""
        try:
            return int((postgres_dir(self.stack.data_dir) / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return 0

    def process(self, role: str) -> psutil.Process | None:
        """Return the watched process of a role, None while it is down."""
        assert self.stack.up is not None
        for process in self.stack.up.children():
            with contextlib.suppress(psutil.Error):
                if ROLES[role] in f"{' '.join(process.cmdline())} " and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def wait_for_restart(self) -> None:
        """Wait until every process is there again."""

        def all_there() -> bool:
            services = _is_alive(self.postgres_pid()) and valkey.server_pid(self.stack.data_dir) is not None
            return services and all(self.process(role) is not None for role in ROLES)

        wait_until(all_there, RESTARTS_WITHIN_S, "all processes are up again")

    def wait_for_answers(self) -> None:
        """Wait until the inference server is ready again."""

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return bool(self.stack.info()["policies"])
            return False

        wait_until(answers, RESTARTS_WITHIN_S, "the inference server answers")

    def bring_up(self) -> None:
        """Start everything again where a blow has left it down for good."""
        assert self.stack.up is not None
        if not _is_alive(self.stack.up.pid):
            self.stack.start()

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a role's process; SIGKILL takes all that it started with it, as a machine's end does."""
        process = self.process(role)
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            children = process.children(recursive=True) if number == signal.SIGKILL else []
            process.send_signal(number)
            for child in children:
                # A trainer is no worker: it ends by itself once its supervisor is gone, or nothing would show it.
                if str(self.stack.data_dir / "rounds") not in " ".join(child.cmdline()):
                    child.kill()


class _Again(httpx.BaseTransport):
    """Sends a request again for a while where nobody answered the connection: web processes restart."""

    def __init__(self, inner: httpx.BaseTransport, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                answer = self.inner.handle_request(request)
                if answer.status_code < 500 or request.method != "GET" or time.monotonic() > deadline:
                    return answer
            except httpx.ConnectError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.3)


def _is_alive(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# The blows

Blow = Callable[[Site, str], None]


def _trainer(site: Site, round_id: str) -> None:
    for process in trainers_of(site.stack, round_id):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _supervisor(site: Site, round_id: str) -> None:
    """SIGKILL the process that watches over the trainer, and leave its worker."""
    worker = site.process("gpu-worker")
    for child in worker.children() if worker else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _redis(site: Site) -> redis.Redis:
    return redis.Redis.from_url(redis_url(site.stack.data_dir), socket_timeout=5)


def _flush(site: Site, round_id: str) -> None:
    _redis(site).flushall()


def _restart_valkey(site: Site, round_id: str) -> None:
    if pid := valkey.server_pid(site.stack.data_dir):
        psutil.Process(pid).kill()


def _postgres(number: signal.Signals) -> Blow:
    def blow(site: Site, round_id: str) -> None:
        if pid := site.postgres_pid():
            process = psutil.Process(pid)
            process.send_signal(number)
            process.wait(60)

    return blow


def _doubled(site: Site, round_id: str) -> None:
    """Ring ten times for the round, on each of the queues that could."""
    app = Celery(broker=redis_url(site.stack.data_dir))
    with app.connection_for_write() as connection:
        for number in range(10):
            queue = ("gpu", f"gpu.{site.host}")[number % 2]
            app.send_task(KICK, (round_id,), queue=queue, connection=connection, ignore_result=True)


def _lost(site: Site, round_id: str) -> None:
    """Take away every message that waits or is not acknowledged, as a broker that restarts from an old copy does."""
    _redis(site).delete("gpu", f"gpu.{site.host}", "ctl", "unacked", "unacked_index")


def _deploy(site: Site, round_id: str) -> None:
    site.stack.stop()
    site.stack.start()


def _outage(site: Site, round_id: str) -> None:
    """SIGKILL the one that watches over all processes, and start anew: it finds what was left."""
    assert site.stack.up is not None
    site.stack.up.kill()
    site.stack.up.wait(30)
    site.stack.start()


def _killed(role: str) -> Blow:
    return lambda site, round_id: site.kill(role)


BLOWS: dict[str, Blow] = {
    "SIGKILL of the trainer": _trainer,
    "SIGKILL of the supervisor": _supervisor,
    "SIGKILL of the worker": _killed("gpu-worker"),
    "SIGTERM to the worker": lambda site, round_id: site.kill("gpu-worker", signal.SIGTERM),
    "SIGKILL of the web": _killed("web"),
    "SIGKILL of beat": _killed("beat"),
    "SIGKILL of the other worker": _killed("worker"),
    "SIGKILL of Valkey": _restart_valkey,
    "Valkey flushed": _flush,
    "SIGKILL of PostgreSQL": _postgres(signal.SIGKILL),
    "PostgreSQL restarted": _postgres(signal.SIGINT),
    "ten more messages": _doubled,
    "all messages lost": _lost,
    "SIGTERM to everything, and a start": _deploy,
    "SIGKILL of the inference server": _killed("inference"),
    "SIGKILL of `up`, and a start": _outage,
}
