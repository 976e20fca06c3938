"""Fresh tasks from the live policy: prompts in turn, distinct recorded seeds, no two responses alike."""

import logging
import re
import secrets
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from difflib import SequenceMatcher

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, Max
from django.db.models.functions import Now
from django.utils.translation import gettext

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Prompt, Response, SampleJob, Task
from feedback_app.annotation.services.tasks import NewResponse, NewTask, create_tasks, response_bounds
from feedback_app.annotation.splits import storable
from feedback_app.leases import claim, claimable, database_now
from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import announce
from feedback_app.projects.models import Project
from feedback_app.projects.protocols import tell_wrong_count
from feedback_app.serving.backends import Backend, BackendError, Generated, SamplingParameters, backend_of
from feedback_app.serving.models import Deployment, PolicyVersion
from feedback_app.serving.selectors import deployment_of
from feedback_app.serving.services import ensure_base_policy, ensure_staged, record_samples

logger = logging.getLogger(__name__)
LEASE = timedelta(minutes=5)
# Responses this alike (difflib's ratio over words) leave nothing to judge.
ALIKE = 0.9
# Rounds of replacing what is too alike, before the prompt is given up for now.
TRIES = 3
ACTIVE_WITHIN = timedelta(minutes=15)
PROMPTS_AT_ONCE = 8
# An endpoint that is away may come back: for so long after it was asked for, a sampling is tried again at every tick.
PATIENCE = timedelta(hours=1)


class SamplingRefused(ValueError):
    """The request cannot be carried out; the message says why."""


def request_sample(
    *,
    project: Project,
    prompts: int,
    responses_per_prompt: int | None = None,
    requested_by: User | None = None,
    automatic: bool = False,
) -> SampleJob:
    """Queue the sampling of responses; the row is the queue, a bell may be rung for it or not.

    A project that has never had a policy answers with the base model.

    Raises:
        SamplingRefused: the project has no prompts, or the numbers are out of bounds.
    """
    if not Prompt.objects.filter(project=project, active=True).exists():
        raise SamplingRefused(gettext("the project has no prompts: import some first"))
    if not 1 <= prompts <= 10_000:
        raise SamplingRefused(gettext("prompts: from 1 to 10000"))
    count = responses_per_prompt or project.responses_per_prompt
    fewest, most = response_bounds(project)
    if wrong := tell_wrong_count(fewest, most, count):
        raise SamplingRefused(gettext("responses_per_prompt: %(reason)s") % {"reason": wrong})
    ensure_base_policy(project=project)
    return SampleJob.objects.create(
        project=project,
        prompts_wanted=prompts,
        responses_per_prompt=count,
        automatic=automatic,
        requested_by=requested_by,
    )


def refill_queues() -> list[SampleJob]:
    """Queue a sampling for every project whose open tasks are fewer than its active annotators are to find ready."""
    jobs = []
    for project in Project.objects.filter(refill_per_annotator__gt=0, archived_at=None):
        missing = _wanted_open(project) - Task.objects.filter(project=project, open=True, priority__gte=0).count()
        if missing <= 0:
            continue
        try:
            with transaction.atomic():
                jobs.append(request_sample(project=project, prompts=missing, automatic=True))
        except IntegrityError:
            continue  # one is under way: the constraint allows a single automatic job a project
        except SamplingRefused as refused:
            logger.warning("refill project=%s: %s", project.slug, refused)
            _tell_prompts_out(project)
    return jobs


def _wanted_open(project: Project) -> int:
    """Return how many open tasks the project should have; one annotator's worth when nobody is at work."""
    since = Now() - ACTIVE_WITHIN
    active = (
        Assignment.objects.filter(task__project=project, created_at__gte=since).values("annotator").distinct().count()
    )
    return project.refill_per_annotator * max(1, active)


def claim_sample_job(*, job_id: object) -> SampleJob | None:
    """Take a job that waits or whose worker has died; None where somebody else has it or it is finished."""
    rows = SampleJob.objects.filter(pk=job_id)  # type: ignore[misc]  # any form of the id will do
    return claim(rows.select_related("project"), lease=LEASE)


def waiting_sample_jobs() -> list[SampleJob]:
    """Return the jobs whose bell should ring again."""
    return list(SampleJob.objects.filter(claimable()).order_by("created_at"))


def run_sample_job(*, job: SampleJob) -> None:
    """Make a claimed job's tasks, a few prompts at a time; what is made stays when the worker dies in between."""
    try:
        while (left := job.prompts_wanted - job.tasks_made - job.prompts_given_up) > 0:
            sampler = _sampler(job)
            prompts = _take_prompts(job.project, min(left, PROMPTS_AT_ONCE))
            _tell_prompts_out(job.project)
            if not prompts:
                _finish(job, SampleJob.State.FAILED, "the project has no active prompts any more")
                return
            try:
                # Side by side: the server answers sixteen requests nearly as fast as two. No thread touches the
                # database.
                with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
                    made = [new for new in pool.map(sampler.task_for, prompts) if new is not None]
            except BackendError:
                _give_back(prompts)
                raise
            finally:
                sampler.count_requests()
            if not _record(job, made, given_up=len(prompts) - len(made)):
                logger.warning("sample job=%s fence=%s: taken over by another worker", job.pk, job.fence)
                return
    except BackendError as error:
        _leave(job, str(error))
        return
    except ValidationError as error:  # the protocol has changed since, and takes other numbers of responses
        _finish(job, SampleJob.State.FAILED, "; ".join(error.messages))
        return
    _finish(job, SampleJob.State.DONE, "")


def _sampler(job: SampleJob) -> "_Sampler":
    """Return a sampler of what is live now: a long job follows a push that comes in the middle of it."""
    deployment = deployment_of(project=job.project)
    assert deployment is not None  # request_sample has made it, and a project never loses its own
    ensure_staged(deployment=deployment)
    return _Sampler(job.project, deployment, backend_of(deployment.endpoint), job.responses_per_prompt)


@transaction.atomic
def _take_prompts(project: Project, count: int) -> list[Prompt]:
    """Return the prompts least often sampled, counted at once so that two workers take different ones.

    One worker of a project at a time: the lock is held for milliseconds, and prompts skipped because another worker
    just then holds them would be missing from a project that has few.
    """
    Project.objects.select_for_update(no_key=True).only("id").get(pk=project.pk)
    prompts = list(Prompt.objects.filter(project=project, active=True).order_by("times_sampled", "id")[:count])
    Prompt.objects.filter(pk__in=[prompt.pk for prompt in prompts]).update(times_sampled=F("times_sampled") + 1)
    return prompts


def _tell_prompts_out(project: Project) -> None:
    """Tell that every active prompt has been sampled, once for the newest of them: sampling goes round again."""
    prompts = Prompt.objects.filter(project=project, active=True)
    if prompts.filter(times_sampled=0).exists():
        return
    newest = prompts.aggregate(newest=Max("created_at"))["newest"]
    announce(project=project, kind=Notification.Kind.PROMPTS_OUT, key=str(newest), values={}, path="tasks/")


def _give_back(prompts: Sequence[Prompt]) -> None:
    """Take back the count of prompts that the endpoint did not answer: their turn is still to come."""
    Prompt.objects.filter(pk__in=[prompt.pk for prompt in prompts]).update(times_sampled=F("times_sampled") - 1)


def _leave(job: SampleJob, error: str) -> None:
    """Let a job wait for its endpoint, saying why; one that has waited for too long has failed."""
    if database_now() - job.created_at > PATIENCE:
        _finish(job, SampleJob.State.FAILED, error)
        return
    SampleJob.objects.filter(pk=job.pk, fence=job.fence).update(
        state=SampleJob.State.QUEUED, error=error, lease_until=None
    )
    logger.warning("sample job=%s waits: %s", job.pk, error)


@transaction.atomic
def _record(job: SampleJob, made: Sequence[NewTask], given_up: int) -> bool:
    """Store tasks and the job's count in one transaction, unless another worker holds the job by now."""
    mine = SampleJob.objects.filter(pk=job.pk, fence=job.fence).update(
        tasks_made=F("tasks_made") + len(made),
        prompts_given_up=F("prompts_given_up") + given_up,
        lease_until=Now() + LEASE,
    )
    if not mine:
        return False
    create_tasks(project=job.project, tasks=made)
    job.tasks_made += len(made)
    job.prompts_given_up += given_up
    return True


def _finish(job: SampleJob, state: SampleJob.State, error: str) -> None:
    SampleJob.objects.filter(pk=job.pk, fence=job.fence).update(
        state=state, error=error, lease_until=None, finished_at=Now()
    )
    logger.info("sample job=%s state=%s tasks=%s %s", job.pk, state, job.tasks_made, error)


@dataclass(frozen=True)
class _Sampler:
    """Draws a task's responses and replaces those that are too alike."""

    project: Project
    deployment: Deployment
    backend: Backend
    count: int

    @property
    def policy(self) -> PolicyVersion:
        return self.deployment.live

    def count_requests(self) -> None:
        """Have what was asked counted: a version that has just gone live is watched by it."""
        record_samples(deployment=self.deployment, seen=self.backend.seen)

    def task_for(self, prompt: Prompt) -> NewTask | None:
        """Return a task of different responses, None where the policy keeps saying the same."""
        sampling = SamplingParameters(self.project.temperature, self.project.top_p, self.project.max_new_tokens)
        kept: list[Generated] = []
        used: set[int] = set()
        for _ in range(TRIES):
            # Seeds are random and recorded: the same request with the same seed gives the same response again.
            seeds = _draw_seeds(self.count - len(kept), used)
            used.update(seeds)
            for generated in self.backend.generate(self.policy, prompt.messages, sampling, seeds):
                # A text that cannot be stored as it was drawn (a NUL in it) is no response that its seed gives again.
                fits = storable(generated.text) and not any(too_alike(generated.text, other.text) for other in kept)
                if fits:
                    kept.append(generated)
            if len(kept) == self.count:
                responses = [self._response(generated, sampling) for generated in kept]
                return NewTask(prompt=prompt, responses=responses)
        return None

    def _response(self, generated: Generated, sampling: SamplingParameters) -> NewResponse:
        return NewResponse(
            text=generated.text,
            source=Response.Source.POLICY,
            policy=self.policy,
            sampling=sampling.as_json(),
            seed=generated.seed,
            token_count=generated.token_count,
            finish_reason=generated.finish_reason,
        )


def _draw_seeds(count: int, used: set[int]) -> list[int]:
    """Return so many random seeds, none like another or a used one."""
    seeds: set[int] = set()
    while len(seeds) < count:
        seeds |= {secrets.randbelow(2**31)} - used
    return sorted(seeds)


def too_alike(first: str, second: str) -> bool:
    """Say whether two responses leave nothing to judge: the same words (or, in Chinese, characters) nearly in order."""
    mine, theirs = _words(first), _words(second)
    if mine == theirs:
        return True
    return SequenceMatcher(None, mine, theirs, autojunk=False).ratio() >= ALIKE


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", folded)
