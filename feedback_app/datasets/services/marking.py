"""Mark the dataset versions that hold what was voided since: they stay as they are, and say so."""

from collections.abc import Collection
from uuid import UUID

from django.db.models import Min
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.services import record_audit
from feedback_app.datasets.models import DatasetVersion
from feedback_app.datasets.services.held import count_held, voided_since
from feedback_app.datasets.services.versions import folder_of


def mark_versions_of_voided() -> int:
    """Mark every version that holds a voided judgment, and return how many were marked now."""
    unmarked = DatasetVersion.objects.filter(tainted_at=None, withdrawn_at=None).select_related("project")
    voided = {
        project: voided_since(project=project, moment=oldest)
        for project, oldest in unmarked.values_list("project").annotate(Min("created_at")).order_by()
    }
    return sum(
        mark_if_holding(version=version, judgments=judgments)
        for version in unmarked
        if (judgments := voided.get(version.project_id))
    )


def mark_if_holding(*, version: DatasetVersion, judgments: Collection[UUID]) -> bool:
    """Mark a version if it holds one of the judgments; the count of those it holds is in its reason."""
    count = count_held(folder_of(version), judgments)
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
