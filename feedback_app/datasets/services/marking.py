"""Mark the dataset versions that hold what was voided since: they stay as they are, and say so."""

from collections import defaultdict
from collections.abc import Collection
from uuid import UUID

from django.db.models import Min
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.services import record_audit
from feedback_app.annotation.models import Judgment
from feedback_app.datasets.models import DatasetVersion
from feedback_app.datasets.services.versions import HELD_JUDGMENTS, folder_of

UUID_BYTES = 16
CHUNK = UUID_BYTES * 2**14


def mark_versions_of_voided() -> int:
    """Mark every version that holds a judgment voided after it was made, and return how many were marked now."""
    unmarked = DatasetVersion.objects.filter(tainted_at=None, withdrawn_at=None).select_related("project")
    voided: dict[int, list[UUID]] = defaultdict(list)
    for project, oldest in unmarked.values_list("project").annotate(Min("created_at")).order_by():
        judgments = Judgment.objects.filter(project=project, voided_at__gte=oldest)
        voided[project] = list(judgments.values_list("pk", flat=True))
    return sum(
        mark_if_holding(version=version, judgments=voided[version.project_id])
        for version in unmarked
        if voided[version.project_id]
    )


def mark_if_holding(*, version: DatasetVersion, judgments: Collection[UUID]) -> bool:
    """Mark a version if it holds one of the judgments; the count of those it holds is in its reason."""
    count = count_held(version, judgments)
    if not count:
        return False
    reason = _("%(count)d of its judgments were voided since") % {"count": count}
    marked = DatasetVersion.objects.filter(pk=version.pk, tainted_at=None).update(
        tainted_at=timezone.now(), taint_reason=reason
    )
    if marked:
        record_audit(
            actor=None, action="dataset.taint", subject=str(version), project_slug=version.project.slug,
            detail={"dataset": str(version.pk), "judgments": count},
        )  # fmt: skip
    return bool(marked)


def count_held(version: DatasetVersion, judgments: Collection[UUID]) -> int:
    """Return how many of the judgments a version holds."""
    wanted = {judgment.bytes for judgment in judgments}
    count = 0
    with (folder_of(version) / HELD_JUDGMENTS).open("rb") as held:
        while piece := held.read(CHUNK):
            count += sum(piece[start : start + UUID_BYTES] in wanted for start in range(0, len(piece), UUID_BYTES))
    return count
