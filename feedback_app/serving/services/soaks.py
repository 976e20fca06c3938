"""The time of watching after a push, as rows: begun and ended in the transaction that moves the pointer."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from feedback_app.leases import database_now
from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import announce
from feedback_app.serving.models import PolicyVersion, Push, Soak
from feedback_app.serving.soak_rules import SoakRules

State = Soak.State


@dataclass(frozen=True)
class Takeback:
    """Why a version that is watched is taken back: the soak it is watched in, and what was found."""

    soak: Soak
    cause: Soak.Cause
    figures: dict[str, Any] = field(default_factory=dict)

    def ended_by(self, rollback: Push) -> bool:
        """Write and tell that the rollback ended the soak; False where something else has ended it meanwhile."""
        ended = Soak.objects.filter(pk=self.soak.pk, state=State.WATCHING).update(
            state=State.ROLLED_BACK, cause=self.cause, figures=self.figures, rollback=rollback, trouble="",
            ended_at=Now(),
        )  # fmt: skip
        if ended:
            self._announce()
        return bool(ended)

    def _announce(self) -> None:
        live = self.figures.get("live", {})
        values = {
            "policy": self.soak.policy.name, "previous": self.soak.previous.name, "cause": str(self.cause),
            "count": live.get(self.cause), "requests": live.get("requests"), "figures": self.figures,
        }  # fmt: skip
        announce(
            project=self.soak.project, kind=Notification.Kind.ROLLED_BACK, key=str(self.soak.pk), values=values,
            path="policies/",
        )  # fmt: skip


def begin_soak(*, push: Push, previous: PolicyVersion, rules: SoakRules) -> Soak:
    """Watch a version from now on; the caller's transaction makes it live, and has ended what was watched before."""
    now = database_now()
    return Soak.objects.create(
        push=push, project=push.project, policy=push.policy, previous=previous, rules=rules.as_json(),
        started_at=now, until=now + timedelta(minutes=rules.minutes), next_at=now,
    )  # fmt: skip


def end_soaks(*, push: Push) -> None:
    """End what is watched in a project where another version goes live: its figures are of the past now."""
    watched = Soak.objects.filter(project=push.project, state=State.WATCHING)
    watched.update(state=State.ENDED, ended_at=Now())
