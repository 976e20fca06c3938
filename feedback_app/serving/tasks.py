"""Pushes and rollbacks that a page asked for: they take as long as a server takes to load a model.

A lost message changes nothing that is served, and the page shows that nothing came of it; a doubled one finds that
there were more pushes since than whoever asked had seen: one of them may have taken the version back.
"""

import logging
from uuid import UUID

from celery import shared_task

from feedback_app.accounts.models import User
from feedback_app.projects.models import Project
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.services import PushRefused, push_policy, roll_back

logger = logging.getLogger(__name__)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def push(policy_id: str, requested_by: int, seen: int | None = None) -> None:
    """Make a version live; why it did not go is kept with the push. seen: the project's pushes when it was asked."""
    policy = PolicyVersion.objects.select_related("project").get(pk=policy_id)
    if seen is not None and policy.project.pushes.count() != seen:
        logger.warning("push policy=%s: asked before another push, and left undone", policy.name)
        return
    try:
        push_policy(policy=policy, requested_by=User.objects.filter(pk=requested_by).first())
    except PushRefused as refused:
        logger.warning("push policy=%s refused: %s", policy.name, refused)


@shared_task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery is untyped
def take_back(project_id: int, from_policy: str, requested_by: int) -> None:
    """Make the version live that was before from_policy; once another is live, there is nothing left to take back."""
    project = Project.objects.filter(pk=project_id, deployment__live=UUID(from_policy)).first()
    if project is None:
        return
    try:
        roll_back(project=project, requested_by=User.objects.filter(pk=requested_by).first())
    except PushRefused as refused:
        logger.warning("rollback project=%s refused: %s", project.slug, refused)
