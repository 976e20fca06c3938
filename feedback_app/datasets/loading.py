"""Rows into the annotation tables by COPY: the one place that writes them in bulk, by the rules of annotation.services.

Every batch is one transaction under the project's import lock, so a killed import leaves whole batches, and running it
again adds nothing twice.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from psycopg.errors import UniqueViolation

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Prompt, Response, Task, TaskResponse
from feedback_app.datasets import lines
from feedback_app.datasets.copying import copy_lines, fresh_ids, hold_rows, keys_by_the_batch, without_order
from feedback_app.datasets.models import Erasure
from feedback_app.datasets.places import Loaded, Place
from feedback_app.datasets.rows import Row
from feedback_app.projects.models import Member, Project, ProtocolVersion

# The advisory lock that keeps two imports into one project from storing one row twice; the second half is the project.
LOCK_SPACE = 0x696D7074  # "impt"


class Loader:
    """Stores the rows of one import; keeps the annotators' ids from batch to batch."""

    def __init__(self, *, project: Project) -> None:
        self.project = project
        self._annotators: dict[str, int] = {}
        self._ids = fresh_ids(1)

    def load(self, rows: Sequence[Row]) -> Loaded:
        """Store a batch of rows; a row that contradicts a stored one is refused and stores nothing of itself."""
        loaded = Loaded()
        # One draw is enough for a batch: a prompt, a task, its responses, each judgment and its assignment.
        self._ids = fresh_ids(1 + sum(2 + len(row.responses) + 2 * len(row.judgments) for row in rows))
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_SPACE, self.project.pk & 0x7FFFFFFF])
                # Of a crash, the last batches may not be left, nor then what was recorded of them: they come in again.
                cursor.execute("SET LOCAL synchronous_commit = off")
                # All look-ups are by key. By what was known of a table before its import, it would be read whole.
                cursor.execute("SET LOCAL enable_seqscan = off")
            rows = self._without_erased(rows, loaded)
            places = self._known_places([row for row in rows if row.responses])
            taken = [row for row in rows if self._place(row, places, loaded)]
            self._hold_named(places.values())
            with keys_by_the_batch():
                prompts, fresh = self._store_prompts(taken)
                self._store_tasks([place for place in places.values() if not place.stored and place.row], prompts)
                self._store_judgments([place for place in places.values() if place.added])
            self._count(taken, places, fresh, loaded)
        return loaded

    def _hold_named(self, places: Iterable[Place]) -> None:
        """See to everything outside of the batch that its rows name, prompts apart: there, and there to stay."""
        judged = [place for place in places if place.added]
        # Tasks first: whoever else locks both has them in this order.
        self._take_places([place for place in judged if place.stored])
        hold_rows(Project._meta.db_table, [self.project.pk])
        if judged:
            hold_rows(ProtocolVersion._meta.db_table, [self.project.protocol_id])
            names = {judgment.annotator for place in judged for judgment, _row in place.added}
            self._ensure_annotators(names)
            hold_rows(User._meta.db_table, {self._annotators[name] for name in names})

    def _without_erased(self, rows: Sequence[Row], loaded: Loaded) -> Sequence[Row]:
        """Refuse the rows that would bring back what was erased from the project."""
        erased = set(Erasure.objects.filter(project=self.project).values_list("kind", "subject_sha256"))
        if not erased:
            return rows
        kept = []
        for row in rows:
            names = [judgment.annotator for judgment in row.judgments]
            gone = [index for index, name in enumerate(names) if ("annotator", subject_of_annotator(name)) in erased]
            if ("prompt", row.content_sha256) in erased:
                loaded.refused.append((row.line, _("prompt: was erased from this project")))
            elif gone:
                reason = _("judgments[%(index)s].annotator: was erased from this project") % {"index": gone[0]}
                loaded.refused.append((row.line, reason))
            else:
                kept.append(row)
        return kept

    def _known_places(self, rows: Sequence[Row]) -> dict[str, Place]:
        identities = ",".join({row.identity_sha256 for row in rows})
        tasks = Task.objects.filter(project=self.project).extra(where=[AMONG_IDENTITIES], params=[identities])
        by_id = {task.pk: task for task in tasks.select_related("prompt")}
        if not by_id:
            return {}
        responses: dict[Any, list[Response]] = defaultdict(list)
        for place in TaskResponse.objects.filter(task__in=by_id).select_related("response").order_by("position"):
            responses[place.task_id].append(place.response)
        known = {
            str(task.identity_sha256): Place(
                task_id=str(pk),
                stored=True,
                response_ids=[str(response.pk) for response in responses[pk]],
                content=(task.prompt.content_sha256, tuple((r.text, r.model_name) for r in responses[pk])),
            )
            for pk, task in by_id.items()
        }
        judged: dict[str, dict[str, str]] = defaultdict(dict)
        judgments = Judgment.objects.filter(task__in=by_id, annotator__kind=User.Kind.IMPORTED)
        for task_id, username, digest in judgments.values_list("task_id", "annotator__username", "body_sha256"):
            judged[str(task_id)][username] = digest
        for place_ in known.values():
            place_.judged = judged[place_.task_id]
        return known

    def _place(self, row: Row, places: dict[str, Place], loaded: Loaded) -> bool:
        """Find or make the row's place and note its new judgments; False where the row is refused."""
        if not row.responses:
            return True
        place = places.get(row.identity_sha256)
        if place is None:
            place = Place(
                task_id=next(self._ids),
                stored=False,
                # An annotator sees these ids, and must not see the canonical order in them.
                response_ids=without_order([next(self._ids) for _ in row.responses]),
                content=row.content,
                row=row,
            )
            places[row.identity_sha256] = place
        elif place.content != row.content:
            reason = _("external_id: %(name)r is stored with another prompt or other responses") % {
                "name": row.external_id
            }
            loaded.refused.append((row.line, reason))
            return False
        fresh = {}
        for index, judgment in enumerate(row.judgments):
            username = username_of(self.project, judgment.annotator)
            stands = place.judged.get(username)
            if stands is None:
                fresh[username] = judgment
            elif stands != judgment.body_sha256:
                reason = _("judgments[%(index)s].annotator: %(annotator)r has judged this row otherwise already") % {
                    "index": index,
                    "annotator": judgment.annotator,
                }
                loaded.refused.append((row.line, reason))
                return False
        for username, judgment in fresh.items():
            place.judged[username] = judgment.body_sha256
            place.added.append((judgment, id(row)))
        return True

    def _store_prompts(self, rows: Iterable[Row]) -> tuple[dict[str, str], set[int]]:
        """Return the prompts' ids by content, and the id() of each row that brought a new one."""
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(row.content_sha256, row)
        if not first:
            return {}, set()
        ids, now = self._known_prompts(first), timezone.now().isoformat()
        made: dict[str, str] = {}
        while missing := [digest for digest in first if digest not in ids and digest not in made]:
            fresh = dict(zip(missing, self._ids, strict=False))
            try:
                with transaction.atomic():
                    new = (lines.prompt_line(self.project, pk, first[digest], now) for digest, pk in fresh.items())
                    copy_lines(Prompt._meta.db_table, lines.PROMPT_COLUMNS, new)
            except UniqueViolation:
                # Sampling and the pages make prompts too, without our lock: the constraint decides who was first.
                if not (known := self._known_prompts(missing)):
                    raise
                ids |= known
            else:
                made = fresh
        return ids | made, {id(first[digest]) for digest in made}

    def _known_prompts(self, digests: Collection[str]) -> dict[str, str]:
        """Return the ids of stored prompts by their content, none of which can be deleted any more."""
        with connection.cursor() as cursor:
            cursor.execute(KNOWN_PROMPTS, [self.project.pk, ",".join(digests)])
            return {digest: str(pk) for digest, pk in cursor.fetchall()}

    def _count(self, rows: Iterable[Row], places: dict[str, Place], fresh: set[int], loaded: Loaded) -> None:
        """Count a row as new where it brought a prompt, a task or a judgment, and else as known."""
        bringing = fresh | {brought for place in places.values() for _, brought in place.added}
        bringing |= {id(place.row) for place in places.values() if place.row}
        for row in rows:
            if id(row) in bringing:
                loaded.new += 1
            else:
                loaded.known += 1

    def _store_tasks(self, places: Sequence[Place], prompts: Mapping[str, str]) -> None:
        if not places:
            return
        now = timezone.now().isoformat()
        copy_lines(Response._meta.db_table, lines.RESPONSE_COLUMNS, lines.response_lines(places, prompts, now))
        tasks = (lines.task_line(self.project, place, prompts, now) for place in places)
        copy_lines(Task._meta.db_table, lines.TASK_COLUMNS, tasks)
        copy_lines(TaskResponse._meta.db_table, lines.JOIN_COLUMNS, lines.join_lines(places))

    def _store_judgments(self, places: Sequence[Place]) -> None:
        if not places:
            return
        now = timezone.now()
        assignments, judgments = [], []
        for place in places:
            for judgment, _brought in place.added:
                made = lines.Made(next(self._ids), next(self._ids), (judgment.created_at or now).isoformat())
                annotator = self._annotators[judgment.annotator]
                assignments.append(lines.assignment_line(self.project, place, annotator, made))
                judgments.append(lines.judgment_line(self.project, place, judgment, annotator, made))
        copy_lines(Assignment._meta.db_table, lines.ASSIGNMENT_COLUMNS, assignments)
        copy_lines(Judgment._meta.db_table, lines.JUDGMENT_COLUMNS, judgments)

    def _take_places(self, places: Sequence[Place]) -> None:
        """Count new judgments of stored tasks, the tasks locked first and in the order of their ids."""
        counts = {place.task_id: len(place.added) for place in places}
        tasks = list(Task.objects.select_for_update().filter(pk__in=counts).order_by("pk"))
        if len(tasks) != len(counts):
            raise IntegrityError("a task that new judgments name was deleted meanwhile")
        for task in tasks:
            task.counted += counts[str(task.pk)]
            if task.overlap is not None:
                task.overlap = max(task.overlap, task.reserved + task.counted)
                task.open = task.open and task.reserved + task.counted < task.overlap
            task.save(update_fields=["counted", "overlap", "open"])

    def _ensure_annotators(self, names: Collection[str]) -> None:
        missing = {username_of(self.project, name): name for name in sorted(names - self._annotators.keys())}
        if not missing:
            return
        User.objects.bulk_create(
            [
                User(username=username, display_name=name, kind=User.Kind.IMPORTED, password="!")
                for username, name in missing.items()
            ],
            ignore_conflicts=True,
        )
        users = {user.username: user for user in User.objects.filter(username__in=missing)}
        Member.objects.bulk_create(
            [Member(project=self.project, user=user, role=Member.Role.ANNOTATOR) for user in users.values()],
            ignore_conflicts=True,
        )
        self._annotators |= {name: users[username].pk for username, name in missing.items()}


def username_of(project: Project, name: str) -> str:
    """Return the account's name of an annotator known from imports; no person can have one with a colon in it."""
    return f"imported:{project.pk}:{name}"


def subject_of_annotator(name: str) -> str:
    """Return what is kept of an erased annotator's name."""
    return hashlib.sha256(f"annotator:{name}".encode()).hexdigest()


KNOWN_PROMPTS = """
    SELECT content_sha256, id FROM annotation_prompt
    WHERE project_id = %s AND content_sha256 = ANY(string_to_array(%s, ',')) FOR KEY SHARE
"""
# One text of digests: as a list, each would be looked at by the driver and by the parser.
AMONG_IDENTITIES = "identity_sha256 = ANY(string_to_array(%s, ','))"
