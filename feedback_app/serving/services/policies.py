"""Policy versions: registered once, never changed, and loaded again where an endpoint has lost them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Max, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.serving.backends import Backend, BackendError, backend_of
from feedback_app.serving.models import Deployment, Endpoint, PolicyVersion, Push
from training.records import MANIFEST, DataError, file_sha256

logger = logging.getLogger(__name__)
EMBEDDED = "embedded"
# The first half of the advisory lock that one holds who replaces what an endpoint serves; the second is the endpoint.
LOCK_SPACE = 0x73657276  # "serv"
# Of the one that holds who loads again what an endpoint has lost.
RESTAGE_LOCK_SPACE = 0x72657374  # "rest"


def ensure_endpoint(*, name: str = EMBEDDED) -> Endpoint:
    """Return the endpoint of that name; the embedded one is made, and follows SERVING_URL when its port moves."""
    endpoint, _ = Endpoint.objects.get_or_create(
        name=name, defaults={"backend": Endpoint.Backend.EMBEDDED, "url": settings.SERVING_URL}
    )
    if endpoint.backend == Endpoint.Backend.EMBEDDED and endpoint.url != settings.SERVING_URL:
        endpoint.url = settings.SERVING_URL
        endpoint.save(update_fields=["url"])
    return endpoint


def ensure_base_policy(*, project: Project, directory: str = "", endpoint: Endpoint | None = None) -> PolicyVersion:
    """Return the project's version 0, the base model, made and pointed to where the project has none yet."""
    found = PolicyVersion.objects.filter(project=project, number=0).first()
    if found is not None:
        return found
    try:
        with transaction.atomic():
            base = PolicyVersion.objects.create(
                project=project,
                number=0,
                name=f"{project.slug}-v0",
                source=PolicyVersion.Source.BASE,
                directory=directory or settings.BASE_MODEL,
            )
            Deployment.objects.create(
                project=project, endpoint=endpoint or ensure_endpoint(), live=base, flipped_at=timezone.now()
            )
    except IntegrityError:  # another process was first
        return PolicyVersion.objects.get(project=project, number=0)
    return base


@transaction.atomic
def register_policy(
    *,
    project: Project,
    directory: Path,
    parent: PolicyVersion | None,
    source: PolicyVersion.Source,
    round_id: UUID | None = None,
    evaluation: dict[str, object] | None = None,
    registered_by: User | None = None,
    withheld: str = "",
    note: str = "",
    also_from: Sequence[PolicyVersion] = (),
) -> PolicyVersion:
    """Make the project's next version of a directory; a round's is made once however often it is asked for.

    withheld: why it may not go live until release_policy is called. also_from: parents beside the first one.

    Raises:
        DataError: a round's directory holds no manifest: the stage that wrote it was not done.
    """
    Project.objects.select_for_update().only("id").get(pk=project.pk)
    if round_id is not None and (found := PolicyVersion.objects.filter(round_id=round_id).first()):
        return found
    newest = PolicyVersion.objects.filter(project=project).aggregate(newest=Max("number"))["newest"]
    number = 1 if newest is None else newest + 1
    manifest = directory / MANIFEST
    if source == PolicyVersion.Source.ROUND and not manifest.is_file():
        raise DataError(f"{manifest}: is missing; the stage was not done")
    policy = PolicyVersion.objects.create(
        project=project,
        number=number,
        name=f"{project.slug}-v{number}",
        source=source,
        parent=parent,
        directory=str(directory),
        manifest_sha256=file_sha256(manifest) if manifest.is_file() else "",
        round_id=round_id,
        evaluation=evaluation or {},
        withheld=withheld,
        note=note,
    )
    policy.also_from.set(also_from)
    record_audit(actor=registered_by, action="policy.register", subject=policy.name, project_slug=project.slug)
    return policy


def release_policy(*, policy: PolicyVersion) -> None:
    """Let a version that was withheld go live from now on."""
    policy.withheld = ""
    policy.save(update_fields=["withheld"])


def ensure_staged(*, deployment: Deployment, by_push: bool = False) -> bool:
    """Have the live version loaded on its endpoint; return whether it had to be.

    by_push: the caller is the push of the project that runs.

    Raises:
        BackendError: it is not there, and cannot be loaded now: where an endpoint holds one version at a time, a push
            under way would be undone by it.
    """
    backend = backend_of(deployment.endpoint)
    try:
        backend.identify(deployment.live)
        return False
    except BackendError:
        if backend.replaces and not by_push:
            return _replace(deployment, backend)
    backend.stage(deployment.live)
    backend.identify(deployment.live)
    return True


def _replace(deployment: Deployment, backend: Backend) -> bool:
    """Load the live version in place of what an endpoint holds, unless that is a push's, or was pushed meanwhile."""
    with alone_at(deployment.endpoint, waits=False):
        if _running_pushes().filter(project=deployment.project_id).exists():
            raise BackendError(f"endpoint {deployment.endpoint.name}: a push is replacing {deployment.live.name}")
        deployment.live = Deployment.objects.select_related("live").get(pk=deployment.pk).live
        backend.stage(deployment.live)
        backend.identify(deployment.live)
    return True


@contextmanager
def alone_at(endpoint: Endpoint, *, waits: bool) -> Iterator[None]:
    """Hold an endpoint of one version at a time for the time of the block: two loads at once would be one of neither.

    Raises BackendError where another has it and waits is false.
    """
    with _locked(LOCK_SPACE, endpoint, waits=waits) as locked:
        if not locked:
            raise BackendError(f"endpoint {endpoint.name}: another process is loading a version there")
        yield


@contextmanager
def _locked(space: int, endpoint: Endpoint, *, waits: bool = False) -> Iterator[bool]:
    """Hold a lock of the database's, which goes with the connection of whoever dies; say whether we have it."""
    with transaction.atomic(), connection.cursor() as cursor:
        how = "pg_advisory_xact_lock" if waits else "pg_try_advisory_xact_lock"
        cursor.execute(f"SELECT {how}(%s, %s)", [space, endpoint.pk & 0x7FFFFFFF])
        yield cursor.fetchone() != (False,)


def _running_pushes() -> QuerySet[Push]:
    return Push.objects.filter(state=Push.State.RUNNING, lease_until__gt=Now())


def restage_missing() -> list[str]:
    """Load every live version that its endpoint does not have, as after the endpoint's restart; return their names.

    An endpoint that does not answer is left for the next tick, and said so. One whose project is being pushed to is
    left to the push, which may just be replacing what is live; and one at a time waits for an endpoint to load.
    """
    staged = []
    troubles: dict[int, str] = {}
    pushing = _running_pushes().values("project")
    for deployment in Deployment.objects.exclude(project__in=pushing).select_related("endpoint", "live", "project"):
        if deployment.endpoint.backend == Endpoint.Backend.EMBEDDED:
            deployment.endpoint = ensure_endpoint(name=deployment.endpoint.name)
        with _locked(RESTAGE_LOCK_SPACE, deployment.endpoint) as ours:
            if not ours:
                continue
            troubles.setdefault(deployment.endpoint.pk, "")
            try:
                if ensure_staged(deployment=deployment):
                    staged.append(deployment.live.name)
            except BackendError as error:
                troubles[deployment.endpoint.pk] = str(error)
                logger.warning("restage project=%s policy=%s: %s", deployment.project.slug, deployment.live.name, error)
    for pk, trouble in troubles.items():
        Endpoint.objects.filter(pk=pk).update(looked_at=timezone.now(), trouble=trouble)
    return staged
