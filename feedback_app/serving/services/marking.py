"""Mark policy versions that learned from what was erased since: they stay as they are, and say so."""

from collections.abc import Iterable

from django.db.models import Q
from django.utils import timezone

from feedback_app.accounts.services import record_audit
from feedback_app.serving.models import PolicyVersion


def mark_policies(*, policies: Iterable[PolicyVersion], reason: str) -> list[PolicyVersion]:
    """Mark policies and all that were trained on from them, once each, and return those marked now."""
    family: dict[object, PolicyVersion] = {}
    generation = list(policies)
    while generation:
        family |= {policy.pk: policy for policy in generation}
        made = [policy.pk for policy in generation]
        children = PolicyVersion.objects.filter(Q(parent__in=made) | Q(also_from__in=made)).distinct()
        generation = [child for child in children if child.pk not in family]
    marked = []
    for policy in family.values():
        changes = {"tainted_at": timezone.now(), "taint_reason": reason[:300]}
        if PolicyVersion.objects.filter(pk=policy.pk, tainted_at=None).update(**changes):
            record_audit(
                actor=None, action="policy.taint", subject=policy.name, project_slug=policy.project.slug,
                detail={"reason": reason},
            )  # fmt: skip
            marked.append(policy)
    return marked
