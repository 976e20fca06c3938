"""A dry run's counts, by the very rules of a load: what each batch would leave behind is remembered for the next."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from feedback_app.annotation.models import Prompt
from feedback_app.datasets.loading import Loader, username_of
from feedback_app.datasets.places import Loaded, Place
from feedback_app.datasets.rows import Row
from feedback_app.projects.models import Project


class Rehearsal(Loader):
    """Says what an import would come to; stores nothing and locks nothing.

    Of what is not in the tables it keeps eight bytes of a hash and what a dict costs: about 100 bytes a row, and as
    much a judgment.
    """

    def __init__(self, *, project: Project) -> None:
        super().__init__(project=project)
        self._prompts: set[int] = set()
        # By what is judged, and by it and the annotator: what it held.
        self._contents: dict[int, int] = {}
        self._bodies: dict[int, int] = {}

    def load(self, rows: Sequence[Row]) -> Loaded:
        """Return what became of a batch's rows, had they been stored after all the earlier ones."""
        loaded = Loaded()
        rows = self._without_erased(rows, loaded)
        places = self._known_places([row for row in rows if row.responses])
        self._recall(rows, places)
        taken = [row for row in rows if self._place(row, places, loaded)]
        self._count(taken, places, self._fresh_prompts(taken), loaded)
        self._remember(places)
        return loaded

    def _recall(self, rows: Iterable[Row], places: dict[str, Place]) -> None:
        """Add the places and judgments that earlier batches would have stored."""
        for row in rows:
            identity = row.identity_sha256
            held = self._contents.get(_short(identity))
            if held is not None:
                # What is remembered is a hash: content that has it stands for it, and any other equals nothing.
                place = places.setdefault(identity, Place(task_id="", stored=True, response_ids=[], content=("", ())))
                if held == _short(_content(row.content)):
                    place.content = row.content
            if identity not in places:
                continue
            judged = places[identity].judged
            for judgment in row.judgments:
                username = username_of(self.project, judgment.annotator)
                body = self._bodies.get(_short(f"{identity} {username}"))
                if body is not None and (body == _short(judgment.body_sha256) or username not in judged):
                    judged[username] = judgment.body_sha256 if body == _short(judgment.body_sha256) else ""

    def _fresh_prompts(self, rows: Iterable[Row]) -> set[int]:
        """Return the id() of each row that would bring a new prompt."""
        first: dict[str, Row] = {}
        for row in rows:
            if _short(row.content_sha256) not in self._prompts:
                first.setdefault(row.content_sha256, row)
        stored = Prompt.objects.filter(project=self.project, content_sha256__in=list(first))
        for digest in stored.values_list("content_sha256", flat=True):
            del first[digest]
        self._prompts |= {_short(digest) for digest in first}
        return {id(row) for row in first.values()}

    def _remember(self, places: Mapping[str, Place]) -> None:
        for identity, place in places.items():
            if place.row is not None:
                self._contents[_short(identity)] = _short(_content(place.content))
            for judgment, _brought in place.added:
                username = username_of(self.project, judgment.annotator)
                self._bodies[_short(f"{identity} {username}")] = _short(judgment.body_sha256)


def _content(content: tuple[object, ...]) -> str:
    return json.dumps(content)


def _short(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
