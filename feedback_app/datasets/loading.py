"""Rows into the annotation tables by COPY: the one place that writes them in bulk, by the rules of annotation.services.

Every batch is one transaction under the project's import lock, so a killed import leaves whole batches, and running it
again adds nothing twice.
"""

import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from feedback_app.accounts.models import User
from feedback_app.annotation.models import Assignment, Judgment, Prompt, Response, Task, TaskResponse
from feedback_app.datasets.models import Erasure
from feedback_app.datasets.rows import Row, RowJudgment
from feedback_app.projects.models import Member, Project

# The advisory lock that keeps two imports into one project from storing one row twice; the second half is the project.
LOCK_SPACE = 0x696D7074  # "impt"


@dataclass(kw_only=True)
class Loaded:
    """What became of a batch's rows."""

    new: int = 0
    known: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class Place:
    """A task that rows of this batch mean, stored already or about to be."""

    task_id: str
    stored: bool
    response_ids: list[str]
    content: list[Any]
    # By annotator: the hash of the judgment that stands, in the table or in this batch.
    judged: dict[str, str] = field(default_factory=dict)
    # With the id() of the row that brought it: a line may hold several rows.
    added: list[tuple[RowJudgment, int]] = field(default_factory=list)
    row: Row | None = None


class Loader:
    """Stores the rows of one import; keeps the annotators' ids from batch to batch."""

    def __init__(self, *, project: Project) -> None:
        self.project = project
        self._annotators: dict[str, int] = {}

    def load(self, rows: Sequence[Row]) -> Loaded:
        """Store a batch of rows; a row that contradicts a stored one is refused and stores nothing of itself."""
        loaded = Loaded()
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_SPACE, self.project.pk & 0x7FFFFFFF])
            rows = self._without_erased(rows, loaded)
            places = self._known_places([row for row in rows if row.responses])
            taken = [row for row in rows if self._place(row, places, loaded)]
            prompts, fresh = self._store_prompts(taken)
            self._count(taken, places, fresh, loaded)
            self._store_tasks([place for place in places.values() if not place.stored and place.row], prompts)
            self._store_judgments([place for place in places.values() if place.added])
        return loaded

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
                loaded.refused.append((row.line, "prompt: was erased from this project"))
            elif gone:
                loaded.refused.append((row.line, f"judgments[{gone[0]}].annotator: was erased from this project"))
            else:
                kept.append(row)
        return kept

    def _known_places(self, rows: Sequence[Row]) -> dict[str, Place]:
        tasks = Task.objects.filter(
            project=self.project, identity_sha256__in={row.identity_sha256 for row in rows}
        ).select_related("prompt")
        by_id = {task.pk: task for task in tasks}
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
                content=[task.prompt.content_sha256, *([r.text, r.model_name] for r in responses[pk])],
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
                task_id=str(uuid.uuid4()),
                stored=False,
                response_ids=[str(uuid.uuid4()) for _ in row.responses],
                content=row.content,
                row=row,
            )
            places[row.identity_sha256] = place
        elif place.content != row.content:
            reason = f"external_id: {row.external_id!r} is stored with another prompt or other responses"
            loaded.refused.append((row.line, reason))
            return False
        fresh = []
        for index, judgment in enumerate(row.judgments):
            stands = place.judged.get(username_of(self.project, judgment.annotator))
            if stands is None:
                fresh.append((judgment, id(row)))
            elif stands != judgment.body_sha256:
                reason = f"judgments[{index}].annotator: {judgment.annotator!r} has judged this row otherwise already"
                loaded.refused.append((row.line, reason))
                return False
        for judgment, _brought in fresh:
            place.judged[username_of(self.project, judgment.annotator)] = judgment.body_sha256
        place.added += fresh
        return True

    def _store_prompts(self, rows: Iterable[Row]) -> tuple[dict[str, str], set[int]]:
        """Return the prompts' ids by content, and the id() of each row that brought a new one."""
        first: dict[str, Row] = {}
        for row in rows:
            first.setdefault(row.content_sha256, row)
        if not first:
            return {}, set()
        wanted = list(first.values())
        new = (
            (str(uuid.uuid4()), _JSON.encode(row.messages), row.content_sha256, row.root_sha256, row.split,
             row.language or self.project.language, row.source, "" if row.responses else row.external_id)
            for row in wanted
        )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(WAITING_PROMPTS)
            copy_rows("import_prompt", PROMPT_COLUMNS, new)
            # Sampling and the pages make prompts too, without our lock: the constraint decides who was first.
            cursor.execute(INSERT_PROMPTS, [self.project.pk, timezone.now()])
            made = {digest: str(pk) for pk, digest in cursor.fetchall()}
            cursor.execute("TRUNCATE import_prompt")
        stored = Prompt.objects.filter(project=self.project, content_sha256__in=set(first) - set(made))
        ids = made | {digest: str(pk) for digest, pk in stored.values_list("content_sha256", "pk")}
        return ids, {id(first[digest]) for digest in made}

    def _count(self, rows: Iterable[Row], places: dict[str, Place], fresh: set[int], loaded: Loaded) -> None:
        """Count a row as new where it brought a prompt, a task or a judgment, and else as known."""
        bringing = fresh | {brought for place in places.values() for _, brought in place.added}
        bringing |= {id(place.row) for place in places.values() if place.row}
        for row in rows:
            if id(row) in bringing:
                loaded.new += 1
            else:
                loaded.known += 1

    def _store_tasks(self, places: Sequence[Place], prompts: dict[str, str]) -> None:
        if not places:
            return
        now, project = timezone.now().isoformat(), self.project
        tasks, responses, joins = [], [], []
        for place in places:
            row = place.row
            assert row is not None
            prompt, count = prompts[row.content_sha256], len(place.added)
            overlap = max(project.overlap, count)
            tasks.append(
                (place.task_id, project.pk, prompt, Task.Kind.NORMAL, Task.State.ACTIVE, overlap, 0, count,
                 count < overlap, 0, row.identity_sha256, row.external_id, now)
            )  # fmt: skip
            for position, (pk, (text, model)) in enumerate(zip(place.response_ids, row.responses, strict=True)):
                responses.append((pk, prompt, text, Response.Source.IMPORTED, model, "{}", "", now))
                joins.append((place.task_id, pk, position))
        copy_rows(Response._meta.db_table, RESPONSE_COLUMNS, responses)
        copy_rows(Task._meta.db_table, TASK_COLUMNS, tasks)
        copy_rows(TaskResponse._meta.db_table, ("task_id", "response_id", "position"), joins)

    def _store_judgments(self, places: Sequence[Place]) -> None:
        if not places:
            return
        self._ensure_annotators({judgment.annotator for place in places for judgment, _ in place.added})
        self._take_places([place for place in places if place.stored])
        now = timezone.now()
        assignments, judgments = [], []
        for place in places:
            order = _array(range(len(place.response_ids)))
            for judgment, _brought in place.added:
                assignment, moment = str(uuid.uuid4()), judgment.created_at or now
                annotator = self._annotators[judgment.annotator]
                assignments.append(
                    (assignment, place.task_id, annotator, Assignment.State.SUBMITTED, moment.isoformat(), order,
                     self.project.protocol_id, 0, "")
                )  # fmt: skip
                judgments.append(self._judgment_row(place, judgment, assignment, annotator, moment))
        copy_rows(Assignment._meta.db_table, ASSIGNMENT_COLUMNS, assignments)
        copy_rows(Judgment._meta.db_table, JUDGMENT_COLUMNS, judgments)

    def _judgment_row(
        self, place: Place, judgment: RowJudgment, assignment: str, annotator: int, moment: datetime
    ) -> tuple[Any, ...]:
        verdict = judgment.verdict

        def by_id(values: dict[str, Any]) -> str:
            named = {place.response_ids[int(index)]: value for index, value in values.items()}
            return _JSON.encode(named) if named else "{}"

        origin = Judgment.Origin.SIMULATED if judgment.simulated else Judgment.Origin.IMPORTED
        return (
            str(uuid.uuid4()), assignment, self.project.pk, place.task_id, annotator, origin, _array(verdict.ranks),
            verdict.all_bad, verdict.strength, by_id(verdict.ratings), by_id(verdict.flags), by_id(verdict.rewrites),
            verdict.rationale, verdict.lead_time, False, 1, judgment.body_sha256, moment.isoformat(),
            moment.isoformat(), "",
        )  # fmt: skip

    def _take_places(self, places: Sequence[Place]) -> None:
        """Count new judgments of stored tasks, the tasks locked first and in the order of their ids."""
        counts = {place.task_id: len(place.added) for place in places}
        for task in Task.objects.select_for_update().filter(pk__in=counts).order_by("pk"):
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


RESPONSE_COLUMNS = ("id", "prompt_id", "text", "source", "model_name", "sampling", "finish_reason", "created_at")
TASK_COLUMNS = (
    "id", "project_id", "prompt_id", "kind", "state", "overlap", "reserved", "counted", "open", "priority",
    "identity_sha256", "external_id", "created_at",
)  # fmt: skip
ASSIGNMENT_COLUMNS = (
    "id", "task_id", "annotator_id", "state", "created_at", "shown_order", "protocol_id", "active_seconds", "reason",
)  # fmt: skip
JUDGMENT_COLUMNS = (
    "id", "assignment_id", "project_id", "task_id", "annotator_id", "origin", "ranks", "all_bad", "strength",
    "ratings", "flags", "rewrites", "rationale", "lead_time", "surplus", "revision", "body_sha256", "created_at",
    "updated_at", "void_reason",
)  # fmt: skip
PROMPT_COLUMNS = (
    "id", "messages", "content_sha256", "root_sha256", "split", "language", "source", "external_id",
)  # fmt: skip
WAITING_PROMPTS = """
    CREATE TEMPORARY TABLE IF NOT EXISTS import_prompt (
        id uuid, messages jsonb, content_sha256 text, root_sha256 text, split text, language text, source text,
        external_id text
    ) ON COMMIT DELETE ROWS
"""
INSERT_PROMPTS = """
    INSERT INTO annotation_prompt (project_id, created_at, active, times_sampled, id, messages, content_sha256,
                                   root_sha256, split, language, source, external_id)
    SELECT %s, %s, true, 0, id, messages, content_sha256, root_sha256, split, language, source, external_id
    FROM import_prompt
    ON CONFLICT (project_id, content_sha256) DO NOTHING
    RETURNING id, content_sha256
"""
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False)


def copy_rows(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into a table; columns left out take the database's default."""
    names = ", ".join(f'"{name}"' for name in columns)
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        copy.write("".join("\t".join(map(_cell, row)) + "\n" for row in rows))


def _cell(value: object) -> str:
    if isinstance(value, str):
        if "\\" in value:
            value = value.replace("\\", "\\\\")
        if "\n" in value:
            value = value.replace("\n", "\\n")
        if "\t" in value:
            value = value.replace("\t", "\\t")
        return value.replace("\r", "\\r") if "\r" in value else value
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(value)


def _array(values: Iterable[int | None]) -> str:
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"
