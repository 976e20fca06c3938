"""HelpSteer2's forms: a prompt and a response as texts with a whole number for each attribute, and its preferences."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.pairs import PairRules
from feedback_app.datasets.exporting.source import ExportTask
from feedback_app.datasets.formats.base import LONGEST_ROW, RowRefused, SourceRow, as_object
from feedback_app.datasets.formats.dialogues import read_prompt, write_prompt

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
# In the preference form: how much better which of the two is.
STRENGTH = "preference_strength"
STRONGEST = 3
# Rows of one prompt: as many responses as any protocol takes, each judged more than a hundred times.
MOST_TOGETHER = 1000
# After the attributes, whichever the project has.
BESIDE = [(name, pyarrow.string()) for name in ("id", "prompt_id", "response_id", "policy", "finish_reason")]


def schema_of(attributes: Sequence[str]) -> pyarrow.Schema:
    """Return the columns for a project's attributes."""
    scores = [(name, pyarrow.int64()) for name in attributes]
    return pyarrow.schema([("prompt", pyarrow.string()), ("response", pyarrow.string()), *scores, *BESIDE])


def lines(tasks: Sequence[ExportTask], rules: PairRules) -> Iterator[str]:
    """Yield one row a response and judgment, or one a response, rounded means, where judgments are combined."""
    prompt = json.dumps(write_prompt(json.loads(tasks[0].messages_json)), ensure_ascii=False)
    for task in tasks:
        for rating in rules.ratings_of(task):
            response = task.responses[rating.place]
            about = json.dumps(
                {
                    **rating.scores,
                    "id": rating.id,
                    "prompt_id": task.prompt_id,
                    "response_id": response.id,
                    "policy": response.answered_by,
                    "finish_reason": response.finish_reason,
                },
                ensure_ascii=False,
            )
            yield f'{{"prompt": {prompt}, "response": {response.text_json}, {about[1:]}'


def convert(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """Yield the rows of one prompt that stand together as one task, at the line of the first.

    HelpSteer2 has one judge, the mean of its annotators; a response that comes again is the next one's.
    """
    for _prompt, group in groupby(rows, key=_prompt_of):
        try:
            members = _together(group)
        except _TooMany as error:
            yield SourceRow(error.line, problem=str(error))
            continue
        if members[0].problem or not isinstance(members[0].value, dict):
            yield from (
                row if row.problem else SourceRow(row.line, problem=_("an object is needed")) for row in members
            )
            continue
        try:
            if STRENGTH in members[0].value:
                yield SourceRow(members[0].line, _preferred_row(members[0].value))
            else:
                yield SourceRow(members[0].line, _judged_row([as_object(row.value) for row in members]))
        except RowRefused as error:
            yield SourceRow(members[0].line, problem=str(error))


class _TooMany(RowRefused):
    """More rows of one prompt than are held at once."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(
            _("prompt: more than %(number)s rows of it stand together, or more than %(size)s MB")
            % {"number": MOST_TOGETHER, "size": LONGEST_ROW // 2**20}
        )


def _together(group: Iterator[SourceRow]) -> list[SourceRow]:
    """Return the rows of one prompt; raises _TooMany, and then none of them is kept while the rest is passed over."""
    members: list[SourceRow] = []
    size = 0
    for row in group:
        members.append(row)
        size += row.size
        if len(members) > MOST_TOGETHER or (len(members) > 1 and size > LONGEST_ROW):
            for _row in group:
                pass
            raise _TooMany(members[0].line)
    return members


def _prompt_of(row: SourceRow) -> Any:
    """Return what rows of one task share; a preference is a task by itself."""
    if not isinstance(row.value, dict) or STRENGTH in row.value:
        return row.line
    return (json.dumps(row.value.get("prompt")),)


def _preferred_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the judged row of a preference: below 0 the first response is better, above it the second, 0 is a tie.

    It is the overall preference of several annotators, whom the file does not name.
    """
    texts = [row.get("response_1"), row.get("response_2")]
    if not isinstance(row.get("prompt"), str) or not all(isinstance(text, str) for text in texts):
        raise RowRefused(_("prompt, response_1, response_2: texts are needed"))
    strength = _score(STRENGTH, row[STRENGTH])
    if abs(strength) > STRONGEST:
        raise RowRefused(
            _("%(strength)s: from -%(strongest)s to %(strongest)s") % {"strength": STRENGTH, "strongest": STRONGEST}
        )
    reasons = [row.get("preference_statement"), row.get("preference_elaboration")]
    return {
        "prompt": read_prompt(row["prompt"]),
        "responses": [{"text": text} for text in texts],
        "judgments": [
            {
                "annotator": "helpsteer2",
                "ranking": [[0, 1]] if not strength else [[0], [1]] if strength < 0 else [[1], [0]],
                "strength": abs(strength),
                "rationale": "\n\n".join(reason for reason in reasons if isinstance(reason, str)),
            }
        ],
    }


def _judged_row(members: list[dict[str, Any]]) -> dict[str, Any]:
    prompt = members[0].get("prompt")
    if not isinstance(prompt, str):
        raise RowRefused(_("prompt: a text is needed"))
    responses: dict[str, Any] = {}
    places: dict[str, str] = {}
    judges: list[dict[str, dict[str, Any]]] = []
    judged: Counter[str] = Counter()
    for member in members:
        text = member.get("response")
        if not isinstance(text, str):
            raise RowRefused(_("response: a text is needed"))
        place = places.setdefault(text, str(len(places)))
        responses.setdefault(text, member.get("policy"))
        scores = {name: _score(name, member[name]) for name in ATTRIBUTES if member.get(name) is not None}
        if not scores:
            raise RowRefused(
                _("helpfulness: a response needs at least one of %(names)s") % {"names": ", ".join(ATTRIBUTES)}
            )
        if judged[place] == len(judges):
            judges.append({})
        judges[judged[place]][place] = scores
        judged[place] += 1
    if len(responses) < 2:
        raise RowRefused(_("response: a prompt needs two or more, in rows that stand together"))
    names = ["helpsteer2", *(f"helpsteer2-{number}" for number in range(2, len(judges) + 1))]
    return {
        "prompt": read_prompt(prompt),
        "responses": [{"text": text, "model": model} for text, model in responses.items()],
        "judgments": [{"annotator": name, "ratings": judge} for name, judge in zip(names, judges, strict=True)],
    }


def _score(name: str, value: Any) -> int:
    """Return a whole number; CSV holds it as text, and some tables as a float."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowRefused(_("%(name)s: a number is needed") % {"name": name}) from None
    if number != int(number):
        raise RowRefused(_("%(name)s: a whole number is needed") % {"name": name})
    return int(number)
