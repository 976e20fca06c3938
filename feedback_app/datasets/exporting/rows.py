"""A format's rows of a project, one JSON line each, with the split they stand on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow
from django.db.models import Max
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.options import ExportOptions, OptionsError
from feedback_app.datasets.exporting.pairs import PairRules, rating_span
from feedback_app.datasets.exporting.reliability import measure_reliability
from feedback_app.datasets.exporting.source import ExportTask, stream_tasks
from feedback_app.datasets.formats.exports import EXPORT_FORMATS, ExportFormat
from feedback_app.projects.models import Project, ProtocolVersion
from feedback_app.projects.protocols import parse_protocol
from feedback_app.serving.models import PolicyVersion

# Line ends to Python's splitlines and JavaScript of old, though not to JSON: escaped, a row is one line to everybody.
LINE_ENDS = tuple((chr(code), f"\\u{code:04x}") for code in (0x85, 0x2028, 0x2029))


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export that is ready to run: its format, the split it takes and its rules."""

    project: Project
    format: ExportFormat
    split: str
    rules: PairRules
    attributes: tuple[str, ...]

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns of the file."""
        return self.format.schema_of(self.attributes)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (split, JSON line) for every row, the rows of a prompt together."""
        for tasks in self.prompts():
            for line in self.lines_of(tasks):
                yield tasks[0].split, line

    def lines_of(self, tasks: list[ExportTask]) -> Iterator[str]:
        """Yield the rows of one prompt's tasks."""
        for line in self.format.lines(tasks, self.rules):
            if not line.isascii():
                for letter, escaped in LINE_ENDS:
                    line = line.replace(letter, escaped)
            yield line

    def prompts(self) -> Iterator[list[ExportTask]]:
        """Yield the judged tasks of each prompt."""
        options = self.rules.options
        if self.format.as_given and options.adjudicated == "replace":
            options = replace(options, adjudicated="ignore")
        tasks = stream_tasks(project=self.project, split=self.split, options=options)
        for _prompt, group in groupby(tasks, key=attrgetter("prompt_id")):
            yield list(group)


def prepare_export(*, project: Project, format: str, options: ExportOptions, split: str = "") -> Export:
    """Return an export of a project, of the split given, or else the options', or else the format's own.

    Raises:
        OptionsError: the format is unknown.
    """
    if format not in EXPORT_FORMATS:
        raise OptionsError("format", _("one of %(names)s") % {"names": ", ".join(EXPORT_FORMATS)})
    chosen = EXPORT_FORMATS[format]
    bounds = attribute_bounds(project)
    newest = PolicyVersion.objects.filter(project=project).aggregate(newest=Max("number"))["newest"]
    reliability = None
    if options.combine == "weighted":
        # From all splits: how far somebody is to be trusted does not depend on where a prompt stands.
        given = replace(options, adjudicated="ignore")
        reliability = measure_reliability(stream_tasks(project=project, split="all", options=given))
    rules = PairRules(
        options=options,
        rating_span=rating_span(bounds, options.rating_weights),
        newest_policy=newest or 0,
        reliability=reliability,
    )
    split = split or options.split or chosen.default_split
    return Export(project=project, format=chosen, split=split, rules=rules, attributes=tuple(bounds))


def attribute_bounds(project: Project) -> dict[str, tuple[int, int]]:
    """Return (minimum, maximum) of every attribute that any version of the project's protocol has had."""
    bounds: dict[str, tuple[int, int]] = {}
    for spec in ProtocolVersion.objects.filter(project=project).order_by("number").values_list("spec", flat=True):
        for attribute in parse_protocol(spec).attributes:
            low, high = bounds.get(attribute.key, (attribute.minimum, attribute.maximum))
            bounds[attribute.key] = (min(low, attribute.minimum), max(high, attribute.maximum))
    return bounds


def iter_preferences(*, project: Project, options: ExportOptions | None = None) -> Iterator[dict[str, Any]]:
    """Yield the preference export's rows as objects: rankings and ratings both give pairs, by the options."""
    export = prepare_export(project=project, format="preference", options=options or ExportOptions())
    for _split, line in export.lines():
        yield json.loads(line)
