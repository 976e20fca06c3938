"""What people do to a round: start, pause, resume, cancel, retry, approve, reject."""

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.annotation.services import withdraw_blind_tasks
from feedback_app.annotation.services.tasks import response_bounds
from feedback_app.projects.models import Project
from feedback_app.rounds.announcing import announce_round
from feedback_app.rounds.blind import blind_standing, waits_for_people
from feedback_app.rounds.hosts import needs_of
from feedback_app.rounds.models import Round, RoundStep
from feedback_app.rounds.recipes import RecipeError, parse_recipe
from feedback_app.rounds.room import NoRoom, check_room
from feedback_app.rounds.selectors import usable_judgments
from feedback_app.rounds.services.recipes import recipe_of
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import ensure_base_policy

State = Round.State


class RoundRefused(ValueError):
    """The round cannot be started or steered so; the message says why."""


def start_round(*, project: Project, created_by: User | None = None, simulated: bool = False) -> Round:
    """Queue a round by the project's recipe; simulated takes simulated judgments in as well.

    A project that has no others is rehearsing: its round learns from simulated judgments alone, and says so. A recipe
    that names a smallest number of judgments lets the round wait for them.

    Raises:
        RoundRefused: one is active already, there is nothing to learn from, the disk is too full, or the recipe cannot
            be used any more.
    """
    recipe = recipe_of(project=project)
    config = dict(recipe.config)
    _check_people(project, config)
    if simulated:
        config["judgments"] = {**config["judgments"], "simulated": "include"}
    else:
        config = as_rehearsal(project=project, config=config)
    enough = _enough_judgments(project, config)
    try:
        frozen = parse_recipe(config, by_operator=True)
        check_room(project=project, recipe=frozen)
    except (RecipeError, NoRoom) as error:  # a recipe of long ago may break a rule of today
        raise RoundRefused(str(error)) from error
    ensure_base_policy(project=project)
    needs = needs_of(project=project, recipe=frozen)
    deployment = deployment_of(project=project)
    assert deployment is not None  # ensure_base_policy made it
    try:
        with transaction.atomic():
            Project.objects.select_for_update().only("id").get(pk=project.pk)
            newest = Round.objects.filter(project=project).aggregate(newest=Max("number"))["newest"] or 0
            made = Round.objects.create(
                project=project,
                number=newest + 1,
                recipe=recipe,
                config=config,
                needs=needs,
                parent=deployment.live,
                state=State.QUEUED if enough else State.WAITING_FOR_JUDGMENTS,
                simulated=config["judgments"].get("simulated", "exclude") != "exclude",
                created_by=created_by,
            )
            _make_steps(made)
            record_audit(
                actor=created_by, action="round.start", subject=f"round {made.number}", project_slug=project.slug
            )
    except IntegrityError as error:
        raise RoundRefused(_("a round of this project is active already")) from error
    return made


def _make_steps(made: Round) -> None:
    without = {RoundStep.Name.ADOPT} if made.config["use_sft"] else {RoundStep.Name.ADOPT, RoundStep.Name.SFT}
    names = [name for name in RoundStep.Name if name not in without]
    RoundStep.objects.bulk_create(
        RoundStep(round=made, name=name, position=position) for position, name in enumerate(names)
    )


def _enough_judgments(project: Project, config: dict[str, Any]) -> bool:
    simulated = config["judgments"].get("simulated", "exclude")
    found, wanted = usable_judgments(project=project, simulated=simulated).count(), config.get("minimum_judgments", 0)
    if not found and not wanted:
        raise RoundRefused(_("there are no judgments to learn from"))
    return bool(found >= wanted)


def as_rehearsal(*, project: Project, config: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's config that learns from simulated judgments where the project has no others."""
    if not _is_rehearsal(project, config):
        return config
    return {**config, "judgments": {**config["judgments"], "simulated": "only"}}


def _is_rehearsal(project: Project, config: dict[str, Any]) -> bool:
    """Say whether all that a project has to learn from is simulated: then nothing real could be mixed with it."""
    if config["judgments"].get("simulated", "exclude") != "exclude" or config.get("minimum_judgments", 0):
        return False
    real, made_up = (usable_judgments(project=project, simulated=kind) for kind in ("exclude", "only"))
    return not real.exists() and made_up.exists()


def queue_fed_rounds() -> list[Round]:
    """Queue the rounds that waited for judgments, to begin or at their gate, and have enough of them by now."""
    fed = []
    for held in Round.objects.filter(state=State.WAITING_FOR_JUDGMENTS).select_related("project"):
        if _is_fed(held):
            moved = Round.objects.filter(pk=held.pk, state=State.WAITING_FOR_JUDGMENTS).update(state=State.QUEUED)
            fed += [held] * moved
    return fed


def _is_fed(held: Round) -> bool:
    if waits_for_people(held):
        standing = blind_standing(held)
        return standing is None or bool(standing.outcome)
    return _enough_judgments(held.project, held.config)


def _check_people(project: Project, config: dict[str, Any]) -> None:
    """Refuse at once what the gate would find out at the end: a blind comparison has two answers."""
    fewest = response_bounds(project)[0]
    if config["gate"].get("human_judgments") and fewest > 2:
        raise RoundRefused(
            _("blind comparisons are of two answers, and the project's protocol takes %(fewest)d at least")
            % {"fewest": fewest}
        )


def _change(round_id: UUID, allowed: set[State], actor: User | None, action: str, **changes: object) -> Round:
    """Move a round from one of the allowed states, once."""
    with transaction.atomic():
        held = Round.objects.select_for_update().select_related("project").get(pk=round_id)
        if held.state not in allowed:
            raise RoundRefused(
                _("round %(number)d is %(state)s: this cannot be done now")
                % {"number": held.number, "state": held.get_state_display()}
            )
        for name, value in changes.items():
            setattr(held, name, value)
        held.save(update_fields=list(changes))
        if "state" in changes:
            announce_round(held)
        record_audit(
            actor=actor, action=f"round.{action}", subject=f"round {held.number}", project_slug=held.project.slug
        )
    return held


@transaction.atomic
def cancel_round(*, round_id: UUID, cancelled_by: User | None) -> Round:
    """End a round: at once where nobody works on it, else by asking the worker, who stops within seconds."""
    waiting = {State.QUEUED, State.PAUSED, State.WAITING_FOR_JUDGMENTS, State.WAITING_FOR_APPROVAL}
    try:
        held = _change(round_id, waiting, cancelled_by, "cancel", state=State.CANCELLED, finished_at=timezone.now())
    except RoundRefused:
        return _change(round_id, {State.RUNNING}, cancelled_by, "cancel", cancel_requested=True)
    withdraw_blind_tasks(round_id=held.pk)
    return held


def pause_round(*, round_id: UUID, paused_by: User | None) -> Round:
    """Let the step that runs finish and then wait; a queued round waits at once."""
    try:
        return _change(round_id, {State.QUEUED}, paused_by, "pause", state=State.PAUSED)
    except RoundRefused:
        return _change(round_id, {State.RUNNING}, paused_by, "pause", pause_requested=True)


def resume_round(*, round_id: UUID, resumed_by: User | None) -> Round:
    """Queue a paused round again."""
    return _change(round_id, {State.PAUSED}, resumed_by, "resume", state=State.QUEUED, pause_requested=False)


def retry_round(*, round_id: UUID, retried_by: User | None, from_step: str = "") -> Round:
    """Queue a round that failed or was cancelled; finished steps stay, those from `from_step` on are done again.

    Raises:
        RoundRefused: another round is active, there is no such step, or it comes before a version that stands already.
    """
    names = list(RoundStep.objects.filter(round_id=round_id).order_by("position").values_list("name", flat=True))
    if from_step and from_step not in names:
        raise RoundRefused(f"step: one of {', '.join(names)}")
    try:
        with transaction.atomic():
            held = _change(
                round_id, {State.FAILED, State.CANCELLED, State.REJECTED}, retried_by, "retry",
                state=State.QUEUED, error="", why={}, finished_at=None, cancel_requested=False, pause_requested=False,
                gate={},
            )  # fmt: skip
            steps = list(held.steps.all())
            if held.policy is not None and from_step not in ("", "gate", "push"):
                raise RoundRefused(
                    _("%(policy)s was made of this round already: start another round") % {"policy": held.policy.name}
                )
            undone = [step for step in steps if step.state != RoundStep.State.DONE or step.name == "gate"]
            first = next((step.position for step in steps if step.name == from_step), None)
            if first is None and undone:
                first = undone[0].position
            if first is not None:
                begun_again = {"state": RoundStep.State.PENDING, "finished_at": None}
                # From a named step on everything is made anew; otherwise a checkpoint is gone on from.
                anew = {"directory": "", "progress": [], "metrics": {}, "first_fence": held.fence + 1}
                held.steps.filter(position__gte=first).update(**begun_again, **(anew if from_step else {}))
    except IntegrityError as error:
        raise RoundRefused(_("another round of this project is active")) from error
    return held


@transaction.atomic
def approve_round(*, round_id: UUID, approved_by: User | None) -> Round:
    """Let a round that waits for a person go live."""
    held = Round.objects.select_for_update().get(pk=round_id)
    gate = {**held.gate, "approved": True, "approved_by": str(approved_by) if approved_by else ""}
    return _change(round_id, {State.WAITING_FOR_APPROVAL}, approved_by, "approve", state=State.QUEUED, gate=gate)


@transaction.atomic
def reject_round(*, round_id: UUID, rejected_by: User | None, reason: str = "") -> Round:
    """End a round that waits for a person's word, or at its gate for many people's, without going live."""
    held = Round.objects.select_for_update().get(pk=round_id)
    allowed = {State.WAITING_FOR_APPROVAL, *([State.WAITING_FOR_JUDGMENTS] if waits_for_people(held) else [])}
    ended = _change(
        round_id, allowed, rejected_by, "reject",
        state=State.REJECTED, error=reason or gettext_noop("rejected by a person"), finished_at=timezone.now(),
    )  # fmt: skip
    withdraw_blind_tasks(round_id=ended.pk)
    return ended


@transaction.atomic
def settle_round(*, round_id: UUID, settled_by: User | None) -> Round:
    """Let a round's blind comparisons end with the verdicts that there are; its recipe says what becomes of it."""
    held = Round.objects.select_for_update().get(pk=round_id)
    allowed = {State.WAITING_FOR_JUDGMENTS} if waits_for_people(held) else set()
    return _change(
        round_id, allowed, settled_by, "settle", state=State.QUEUED, gate={**held.gate, "settled": True}
    )  # fmt: skip
