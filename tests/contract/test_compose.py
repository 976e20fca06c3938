"""docker-compose.yml in production shape: what Docker would refuse or miss, checked where no Docker is."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedback_app.rounds.hosts import queue_of
from feedback_app.serving.backends.tgi import COLOURS
from feedback_app.settings import CELERY_TASK_DEFAULT_QUEUE, CELERY_TASK_ROUTES, NEEDED

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "feedback_app" / "containers"
FOLLOW = CONTAINERS / "follow_current.sh"
OURS = ("migrate", "web", "worker", "beat", "gpu-worker")
# The keys of a service in the Compose specification that this file may use; a misspelt one is none of them.
KNOWN_KEYS = {
    "build", "command", "depends_on", "deploy", "entrypoint", "environment", "healthcheck", "hostname", "image", "init",
    "ipc",
    "ports", "profiles", "restart", "shm_size", "stop_grace_period", "volumes",
}  # fmt: skip


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def test_every_part_of_production_is_a_service(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {*OURS, "tgi-blue", "tgi-green", "vllm", "postgres", "redis"}
    assert [name for name, service in services.items() if "profiles" in service] == ["vllm"]


def test_services_use_keys_that_compose_knows_and_volumes_that_are_declared(compose: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= KNOWN_KEYS, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
        for needed in service.get("depends_on", {}):
            assert needed in compose["services"], f"{name} waits for {needed}"


def test_our_services_get_each_setting_that_production_needs(services: dict[str, dict[str, Any]]) -> None:
    for name in OURS:
        environment = services[name]["environment"]
        assert [setting for setting in NEEDED if not environment.get(setting)] == [], name


def test_secrets_come_from_the_environment_and_have_no_default(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    for secret in ("SECRET_KEY", "POSTGRES_PASSWORD", "ALLOWED_HOSTS"):
        uses = re.findall(rf"\$\{{{secret}([^}}]*)\}}", text)
        assert uses, secret
        assert all(use.startswith(":?") for use in uses), secret


def test_every_service_that_stays_is_watched_and_restarted(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "migrate":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_nothing_of_ours_starts_before_the_tables_and_static_files_are_there(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in set(OURS) - {"migrate"}:
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    script = (CONTAINERS / "entrypoint.sh").read_text()
    assert "manage.py migrate --no-input" in script
    assert "manage.py collectstatic --no-input" in script


def test_workers_listen_on_every_queue_that_tasks_go_to(services: dict[str, dict[str, Any]]) -> None:
    script = (CONTAINERS / "entrypoint.sh").read_text()
    heard = {queue for queues in re.findall(r'--queues "?([^"\s]+)', script) for queue in queues.split(",")}
    own = queue_of("$HOST_NAME")  # a training host's own beside the common one
    assert heard == {CELERY_TASK_DEFAULT_QUEUE, own, *(route["queue"] for route in CELERY_TASK_ROUTES.values())}
    roles = set(re.findall(r"^    ([a-z-]+)\)", script, re.MULTILINE))
    assert {services[name]["command"][0] for name in OURS} == roles


def test_what_needs_a_gpu_reserves_one(services: dict[str, dict[str, Any]]) -> None:
    for name in ("gpu-worker", "tgi-blue", "tgi-green", "vllm"):
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"], name
        assert device["driver"] == "nvidia", name
    assert services["gpu-worker"]["build"]["target"] == "train"
    assert {services[name]["build"]["target"] for name in OURS if name != "gpu-worker"} == {"web"}


def test_each_colour_follows_a_file_of_its_own_on_the_models_volume(services: dict[str, dict[str, Any]]) -> None:
    files = {colour: services[f"tgi-{colour}"]["environment"]["CURRENT_FILE"] for colour in COLOURS}
    assert len(set(files.values())) == len(COLOURS)
    for colour in COLOURS:
        service = services[f"tgi-{colour}"]
        assert files[colour].startswith("/data/"), colour
        assert "data:/data:ro" in service["volumes"], "only a push may write there"
        assert service["entrypoint"] == ["/bin/sh", "/follow_current.sh"]


def test_only_the_pages_are_reached_from_outside(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["web"]


@pytest.mark.parametrize("script", sorted(CONTAINERS.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True)


class Follower:
    """follow_current.sh with a launcher that only notes how it was started and stopped."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.current, self.log = folder / "CURRENT", folder / "launcher.log"
        launcher = folder / "launcher"
        launcher.write_text(
            "#!/bin/sh\n"
            f"trap 'echo \"end $2\" >> {self.log}; exit 0' TERM\n"
            f'echo "start $*" >> {self.log}\n'
            'case "$2" in *broken*) exit 7;; esac\n'
            "while :; do sleep 0.05; done\n"
        )
        launcher.chmod(0o755)
        self.log.touch()
        self.process = subprocess.Popen(
            ["sh", str(FOLLOW), "--port", "80"],
            env={
                "PATH": "/usr/bin:/bin",
                "CURRENT_FILE": str(self.current),
                "LAUNCHER": str(launcher),
                "POLL_S": "0.05",
                **environment,
            },
            start_new_session=True,
        )

    def end(self) -> None:
        """End it and the launcher that it started, which a killed shell leaves behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def name(self, model: str) -> None:
        fresh = self.current.with_name("CURRENT.new")
        fresh.write_text(model)
        fresh.replace(self.current)

    def lines(self, count: int) -> list[str]:
        """Return the launcher's log once it has so many lines."""
        deadline = time.monotonic() + 10
        while len(lines := self.log.read_text().splitlines()) < count:
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)
        return lines


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    follower = Follower(tmp_path)
    yield follower
    follower.end()


def test_a_server_waits_for_a_version_then_follows_what_current_names(follower: Follower) -> None:
    time.sleep(0.3)
    assert follower.lines(0) == []  # nothing is named yet
    follower.name("/data/rounds/one/model")
    assert follower.lines(1) == ["start --model-id /data/rounds/one/model --port 80"]
    follower.name("/data/rounds/two/model")
    # The old one has ended before the new one starts: both would not fit into one GPU.
    assert follower.lines(3)[1:] == [
        "end /data/rounds/one/model",
        "start --model-id /data/rounds/two/model --port 80",
    ]


def test_naming_the_same_version_again_restarts_nothing(follower: Follower) -> None:
    follower.name("/data/one")
    follower.lines(1)
    follower.name("/data/one")
    time.sleep(0.4)  # eight looks at the file
    assert len(follower.lines(1)) == 1


def test_a_stopped_container_stops_its_server(follower: Follower) -> None:
    follower.name("/data/one")
    follower.lines(1)
    follower.process.terminate()
    assert follower.process.wait(10) == 0
    assert follower.lines(2)[1] == "end /data/one"


def test_a_server_that_falls_ends_the_container_with_its_code(follower: Follower) -> None:
    follower.name("/data/broken")
    assert follower.process.wait(10) == 7


def test_until_the_first_push_the_first_model_is_served(tmp_path: Path) -> None:
    follower = Follower(tmp_path, FIRST_MODEL="/data/models/base")
    try:
        assert follower.lines(1) == ["start --model-id /data/models/base --port 80"]
        follower.name("/data/one")
        assert follower.lines(3)[2] == "start --model-id /data/one --port 80"
    finally:
        follower.process.terminate()
        follower.process.wait(10)
