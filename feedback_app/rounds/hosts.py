"""The machines that train: each says of itself what it has, and takes only what fits it."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psutil
from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.projects.models import Project
from feedback_app.rounds.estimates import Estimate, estimate_round
from feedback_app.rounds.machine import read_gpus
from feedback_app.rounds.models import Host, Round, Trial
from feedback_app.rounds.recipes import Recipe
from feedback_app.rounds.room import USUAL_BYTES

logger = logging.getLogger(__name__)
BEAT_EVERY_S = 10.0
GONE_AFTER = timedelta(seconds=60)
# Nobody asks after a host that has been gone for so long: containers have a new name each time.
FORGOTTEN_AFTER = timedelta(days=7)
SHARED_QUEUE = "gpu"
ASK_TIMEOUT_S = 120.0
# Asked in a process of its own: whoever imports torch holds hundreds of megabytes and a GPU's context for ever after.
ASK_TORCH = """
import json, torch
devices = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        devices.append({"kind": "cuda", "index": index, "name": found.name, "memory": found.total_memory})
if torch.backends.mps.is_available():
    memory = torch.mps.recommended_max_memory()
    devices.append({"kind": "mps", "index": 0, "name": "Apple GPU", "memory": memory})
print(json.dumps({"torch": torch.__version__, "devices": devices}))
"""


def queue_of(name: str) -> str:
    """Return the queue that a host alone listens to."""
    return f"{SHARED_QUEUE}.{name}"


def register_host() -> Host:
    """Write down what this machine has; called as its worker starts, and again until torch is installed."""
    found = ask_torch()
    disk = psutil.disk_usage(str(settings.DATA_DIR))
    values = {
        "torch": found["torch"], "devices": found["devices"], "cpus": psutil.cpu_count() or 1,
        "memory": psutil.virtual_memory().total, "disk_free": disk.free, "load": read_load(), "seen_at": Now(),
        "gone_at": None,
    }  # fmt: skip
    host, _made = Host.objects.update_or_create(
        name=settings.HOST_NAME, defaults={**values, "started_at": Now()}
    )  # fmt: skip
    logger.info("host=%s torch=%s devices=%s", host.name, found["torch"] or "none", len(found["devices"]))
    return host


def ask_torch() -> dict[str, Any]:
    """Return {"torch": version, "devices": [...]} as a trainer would find them; version "" where torch is not there."""
    try:
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ASK_TORCH], capture_output=True, text=True, timeout=ASK_TIMEOUT_S,
            check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])  # libraries say things on the way in
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        words = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        logger.warning("torch does not say what it finds here: %s", words[-1] if words else error)
        return {"torch": "", "devices": []}
    return found


def read_load() -> dict[str, Any]:
    """Return what is in use now: processors (a share of all), bytes of memory, and each GPU's memory and load."""
    return {
        "cpu": round(psutil.cpu_percent() / 100, 3),
        "memory": psutil.virtual_memory().total - psutil.virtual_memory().available,
        "gpus": [{"index": gpu.index, "used": gpu.used, "total": gpu.total, "load": gpu.load} for gpu in read_gpus()],
    }


def beat_host() -> bool:
    """Say that this machine lives and how busy it is; return whether its row is there."""
    disk = psutil.disk_usage(str(settings.DATA_DIR))
    mine = Host.objects.filter(name=settings.HOST_NAME)
    return bool(mine.update(seen_at=Now(), gone_at=None, disk_free=disk.free, load=read_load()))


def mark_gone_hosts() -> list[str]:
    """Mark the hosts that have fallen silent; what they held goes to others as its lease runs out."""
    silent = Host.objects.filter(gone_at=None, seen_at__lt=Now() - GONE_AFTER)
    names = list(silent.values_list("name", flat=True))
    if names:
        Host.objects.filter(name__in=names, seen_at__lt=Now() - GONE_AFTER).update(gone_at=Now())
        logger.warning("hosts have fallen silent: %s", ", ".join(names))
    Host.objects.filter(gone_at__lt=Now() - FORGOTTEN_AFTER).delete()
    return names


def living_hosts() -> QuerySet[Host]:
    """Return the hosts that have said lately that they live."""
    return Host.objects.filter(gone_at=None, seen_at__gte=Now() - GONE_AFTER).order_by("name")


def needs_of(*, project: Project, recipe: Recipe) -> dict[str, Any]:
    """Return what a host must have for a round by the recipe."""
    return needs_from(estimate_round(project=project, recipe=recipe), recipe)


def needs_from(estimate: Estimate, recipe: Recipe) -> dict[str, Any]:
    """Return what a host must have: GPUs, a kind of device, bytes at least of memory and disk.

    At least: weights and optimisers without activations, so that no host is passed over by a guess.
    """
    kinds = {table.get("device", "auto") for table in (recipe.sft, recipe.reward, recipe.ppo, recipe.evaluate)}
    return {
        "devices": recipe.devices,
        "kind": next((kind for kind in ("cuda", "mps", "cpu") if kind in kinds), ""),
        "memory": _least(estimate),
        "disk": estimate.disk if estimate.shape is not None else USUAL_BYTES,
        "torch": not recipe.launcher,
    }


def _least(estimate: Estimate) -> float:
    return max((cost.least for cost in estimate.costs), default=0.0)


def misfit(host: Host, needs: Mapping[str, Any], *, begun: bool = False) -> str:
    """Return why a host cannot do what needs these, in words; empty where it can. begun: has its disk already."""
    if not needs:
        return ""
    if needs["torch"] and not host.torch:
        return _("torch is not installed there")
    gpus = host.gpus
    if len(gpus) < needs["devices"]:
        return _("GPUs there: %(there)d, needed: %(needed)d") % {"there": len(gpus), "needed": needs["devices"]}
    kind = needs["kind"]
    if kind in ("cuda", "mps") and not any(device["kind"] == kind for device in host.devices):
        return _("it has no device of the kind %(kind)s") % {"kind": kind}
    if (there := host.memory_for(kind)) < needs["memory"]:
        return _("it has %(there).1f GiB of memory to train in, and %(needed).1f are needed at least") % {
            "there": there / 2**30, "needed": needs["memory"] / 2**30,
        }  # fmt: skip
    if not begun and host.disk_free < needs["disk"]:
        return _("its disk has %(there).1f GiB free, and %(needed).1f are needed") % {
            "there": host.disk_free / 2**30, "needed": needs["disk"] / 2**30,
        }  # fmt: skip
    return ""


def suits(host: Host, estimate: Estimate, recipe: Recipe) -> str:
    """Return in words how a host suits a recipe: whether it fits, and whether its memory may run short all the same."""
    needs = needs_from(estimate, recipe)
    if reason := misfit(host, needs):
        return _("does not fit: %(reason)s") % {"reason": reason}
    if host.memory_for(needs["kind"]) < estimate.memory:
        return _("may run short of memory: it has %(there).1f GiB") % {"there": host.memory_for(needs["kind"]) / 2**30}
    return _("fits")


def fits_here(row: Round | Trial) -> bool:
    """Say whether this machine may take a row; one that has not registered itself, as a command's, takes any."""
    here = Host.objects.filter(name=settings.HOST_NAME).first()
    return here is None or not misfit(here, row.needs, begun=row.fence > 0)


def queues_for(row: Round | Trial) -> list[str]:
    """Return the queues to ring: of each living host that fits; the shared one where none has registered."""
    hosts = list(living_hosts())
    if not hosts:
        return [SHARED_QUEUE]
    return [queue_of(host.name) for host in hosts if not misfit(host, row.needs, begun=row.fence > 0)]


def held_by(host: Host) -> list[Round | Trial]:
    """Return what runs on a host now."""
    mine = {"lease_owner__startswith": f"{host.name}:", "lease_until__gte": Now(), "state": "running"}
    return [*Round.objects.filter(**mine).select_related("project"), *Trial.objects.filter(**mine)]


def waiting_words(row: Round | Trial) -> str:
    """Return which host a queued row waits for and why, in words; empty where no host has registered at all."""
    hosts = list(living_hosts())
    if not hosts:
        gone = Host.objects.order_by("-seen_at").first()
        if gone is None:
            return ""
        return _("No training host is alive; %(host)s was the last, %(minutes)d minutes ago.") % {
            "host": gone.name, "minutes": (timezone.now() - gone.seen_at).total_seconds() // 60,
        }  # fmt: skip
    reasons = {host: misfit(host, row.needs, begun=row.fence > 0) for host in hosts}
    fit = [host for host in hosts if not reasons[host]]
    if not fit:
        said = "; ".join(f"{host.name}: {reason}" for host, reason in reasons.items())
        return _("Waiting for a host that fits. None does now: %(reasons)s.") % {"reasons": said}
    if free := next((host for host in fit if not held_by(host)), None):
        return _("Waiting for %(host)s, which is free and takes it in a moment.") % {"host": free.name}
    return _("Waiting for %(hosts)s: busy with other work, and takes it as that ends.") % {
        "hosts": ", ".join(host.name for host in fit)
    }  # fmt: skip
