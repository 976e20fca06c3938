"""Leases: each kind of work has its own length, and a claim is one with the fence that it gives."""

from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from feedback_app.rounds.leases import SIMULATION_LEASE, claim_round, cut_leases
from feedback_app.rounds.models import Round, Simulation
from tests.factories import make_project
from tests.web.round_rows import round_at


@pytest.mark.django_db
def test_a_simulations_lease_is_not_cut_to_a_rounds() -> None:
    asked = {"annotators": 1, "judgments": 1, "preference": "concise", "noise": 0.0, "state": "running"}
    fresh, ahead = (Simulation.objects.create(project=make_project(), **asked) for _ in range(2))
    Simulation.objects.filter(pk=fresh.pk).update(lease_until=Now() + SIMULATION_LEASE)
    Simulation.objects.filter(pk=ahead.pk).update(lease_until=Now() + timedelta(hours=1))
    assert cut_leases() == 1
    fresh.refresh_from_db()
    ahead.refresh_from_db()
    assert fresh.lease_until is not None
    assert ahead.lease_until is not None
    assert timedelta(0) <= ahead.lease_until - fresh.lease_until < timedelta(seconds=60)


@pytest.mark.django_db(transaction=True)
def test_nobody_takes_a_round_between_its_claim_and_the_reading_of_its_fence() -> None:
    held = round_at(make_project(), "queued", "export")
    refused = []

    def steal() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '200ms'")
                Round.objects.filter(pk=held.pk).update(fence=F("fence") + 1)
        except OperationalError as error:
            refused.append(str(error))
        finally:
            connection.close()

    def halt(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        done = execute(sql, params, many, context)
        if "lease_owner" in sql and sql.startswith("UPDATE") and not refused:
            thief = Thread(target=steal)
            thief.start()
            thief.join()
        return done

    with connection.execute_wrapper(halt):
        claimed = claim_round(round_id=held.pk)
    assert claimed is not None
    assert claimed.fence == held.fence + 1
    assert "lock timeout" in refused[0]
