"""Judging here and in Label Studio, in turn, in one run: submits a second, the wait for the next task, and the ratios.

    python benchmarks/beside_label_studio.py [--environment DIR] [--turns 2] [--seconds 20] [--tasks 20000]

Label Studio 1.23.2 is installed from PyPI into an environment of its own (some minutes the first time; DIR is kept for
the next run) and keeps its data in a second database of the same PostgreSQL. Both sites have the same tasks, overlap
and annotators, two web processes of four threads each, and the same client. Prints one JSON object; exits with 1 where
a target is missed: 25 times the submits a second, a twentieth of the next task's p95.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import Asked, OurSite, Site, Times, judge_for
from benchmarks.stand import WEB_PROCESSES, free_port, server, services_of_a_run, web_server

VERSION = "1.23.2"
SLUG = "load"
LEAST_RATE = 25
LEAST_QUICKNESS = 20
BATCH = 5_000
TEXT = "A response of middle length, as a small model would write it to a short question. "
LABELS = (
    '<View><Text name="prompt" value="$prompt"/><Pairwise name="comparison" toName="left,right"/>'
    '<Text name="left" value="$left"/><Text name="right" value="$right"/></View>'
)
# Run by Label Studio's own Python: people, their tokens, and an organisation that takes tokens.
SEED = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "core.settings.label_studio"
import django
django.setup()
from organizations.models import Organization
from rest_framework.authtoken.models import Token
from users.models import User
people = [User.objects.create_user(f"{n}@example.org", "not used here") for n in range(int(sys.argv[1]))]
organization = Organization.create_organization(created_by=people[0], title="load", legacy_api_tokens_enabled=True)
for number, person in enumerate(people):
    if number:
        organization.add_user(person)
    person.active_organization = organization
    person.save(update_fields=["active_organization"])
    Token.objects.filter(user=person).delete()
    Token.objects.create(user=person, key=f"{number:040x}")
"""


@dataclass(frozen=True)
class LabelStudioSite:
    """Label Studio, by its API, as its own page asks it."""

    port: int
    project: int

    def next_task(self) -> Asked:
        return "GET", f"/api/projects/{self.project}/next", None

    def submit(self, task: dict[str, Any]) -> Asked:
        said = {"from_name": "comparison", "to_name": "left", "type": "pairwise", "value": {"selected": "left"}}
        body = {"lead_time": 3.2, "result": [said]}
        return "POST", f"/api/tasks/{task['id']}/annotations/?project={self.project}", body


def install(environment: Path) -> Path:
    """Make Label Studio's environment where it is not there yet; returns its Python."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    wanted = [f"label-studio=={VERSION}", "gunicorn"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
    return python


@contextmanager
def label_studio(python: Path, folder: Path, tasks: int, annotators: int) -> Iterator[LabelStudioSite]:
    """Run Label Studio on a database of its own beside ours, with tasks and annotators, for the time of the block."""
    environment = _environment(folder)
    home = Path(_output([python, "-c", "import label_studio; print(label_studio.__path__[0])"], environment))
    _create_database(environment["POSTGRE_NAME"])
    for arguments in (["manage.py", "migrate", "--verbosity", "0"], ["-c", SEED, str(annotators)]):
        subprocess.run([python, *arguments], cwd=home, env=environment, check=True, stdout=sys.stderr)
    port = free_port()
    command = [
        str(python), "-m", "gunicorn", "--workers", str(WEB_PROCESSES), "--threads", "4", "--timeout", "120",
        "--bind", f"127.0.0.1:{port}", "core.wsgi:application",
    ]  # fmt: skip
    with server(command, port, "/health", cwd=home, env=environment, patience_s=180):
        yield LabelStudioSite(port=port, project=_fill(port, tasks))


def _environment(folder: Path) -> dict[str, str]:
    from django.conf import settings

    database = settings.DATABASES["default"]
    data = folder / "label-studio"
    data.mkdir()
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "core.settings.label_studio", "DJANGO_DB": "default", "POSTGRE_NAME": "label_studio",
        "POSTGRE_USER": database["USER"], "POSTGRE_PASSWORD": "", "POSTGRE_HOST": database["HOST"],
        "POSTGRE_PORT": database["PORT"] or "5432", "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "false",
        "LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def _output(command: Sequence[str | Path], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def _create_database(name: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')


def _fill(port: int, tasks: int) -> int:
    project = _post(port, "/api/projects", {"title": "load", "label_config": LABELS, "maximum_annotations": 3})
    rows = [
        {"prompt": f"Question {number} of the load test?", "left": TEXT * 3, "right": TEXT * 5}
        for number in range(tasks)
    ]
    for start in range(0, tasks, BATCH):
        _post(port, f"/api/projects/{project['id']}/import", rows[start : start + BATCH])
    return int(project["id"])


def _post(port: int, path: str, body: object) -> dict[str, Any]:
    headers = {"Authorization": f"Token {0:040x}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as answer:
        answered: dict[str, Any] = json.load(answer)
    return answered


def compare(sites: dict[str, tuple[Site, Sequence[str]]], turns: int, seconds: float) -> dict[str, Any]:
    """Let each site be judged in turn, and return every turn's figures and the ratios of their medians."""
    measured: dict[str, list[Times]] = {name: [] for name in sites}
    for _ in range(turns):
        for name, (site, tokens) in sites.items():
            times = judge_for(site, tokens, seconds)
            if not times.submit_ms:
                raise RuntimeError(f"{name} took no verdict: {times.errors[:1]}")
            measured[name].append(times)
            print(f"{name}: {json.dumps(measured[name][-1].report())}", file=sys.stderr, flush=True)
    reports = {name: [times.report() for times in each] for name, each in measured.items()}

    def middle(name: str, figure: str) -> float:
        return statistics.median(float(report[figure]) for report in reports[name])

    return {
        **reports,
        "submits_ratio": round(middle("ours", "submits_per_s") / middle("label_studio", "submits_per_s"), 1),
        "next_p95_ratio": round(middle("label_studio", "next_p95_ms") / middle("ours", "next_p95_ms"), 1),
    }


def main() -> int:
    """Install, prepare both, measure in turn, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / f"label-studio-{VERSION}")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--annotators", type=int, default=16)
    options = parser.parse_args()
    python = install(options.environment.resolve())
    with services_of_a_run() as folder:
        from benchmarks.annotate import prepare

        ours = prepare(slug=SLUG, tasks=options.tasks, overlap=3, annotators=options.annotators)
        theirs = [f"{number:040x}" for number in range(options.annotators)]
        with label_studio(python, folder, options.tasks, options.annotators) as peer, web_server() as port:
            sites: dict[str, tuple[Site, Sequence[str]]] = {
                "label_studio": (peer, theirs),
                "ours": (OurSite(port=port, slug=SLUG), ours),
            }
            report = compare(sites, options.turns, options.seconds)
    print(json.dumps({"tasks": options.tasks, "annotators": options.annotators} | report, indent=2))
    reached = report["submits_ratio"] >= LEAST_RATE and report["next_p95_ratio"] >= LEAST_QUICKNESS
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
