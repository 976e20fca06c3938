"""The manifest of a dataset version: what is in it, by which rules, from whom and from what."""

from collections import Counter
from importlib.metadata import version as package_version
from typing import Any

from feedback_app.datasets.exporting.options import SPLITS
from feedback_app.datasets.exporting.rows import Export
from feedback_app.datasets.exporting.source import ExportTask, agreed_of
from feedback_app.datasets.services.asking import Asked


class Tally:
    """Counts what passes by, for the manifest."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.prompts: Counter[str] = Counter()
        self.tasks = 0
        self.judgments = 0
        self.simulated = 0
        self.annotators: set[str] = set()
        self.policies: Counter[str] = Counter()
        self.protocols: set[int] = set()
        self.guidelines: set[int] = set()
        self.languages: Counter[str] = Counter()
        self.agreed = 0
        self.compared = 0

    def add(self, tasks: list[ExportTask]) -> None:
        """Count the tasks of one prompt."""
        self.prompts[tasks[0].split] += 1
        self.languages[tasks[0].language] += 1
        for task in tasks:
            self.tasks += 1
            same, compared = agreed_of(task)
            self.agreed += same
            self.compared += compared
            self.policies.update({response.answered_by or "unknown" for response in task.responses})
            for judgment in task.judgments:
                self.judgments += 1
                self.simulated += judgment.simulated
                self.annotators.add(judgment.annotator)
                self.protocols.add(judgment.protocol)
                if judgment.guidelines is not None:
                    self.guidelines.add(judgment.guidelines)


def manifest_of(export: Export, asked: Asked, tally: Tally, files: dict[str, str]) -> dict[str, Any]:
    """Return the manifest of what was written; files: the SHA-256 of each."""
    return {
        "project": export.project.slug,
        "format": asked.format,
        "file_type": asked.file_type,
        "options": export.rules.options.as_json(),
        "files": files,
        "rows": {split: tally.rows[split] for split in SPLITS if tally.rows[split]},
        "prompts": {split: tally.prompts[split] for split in SPLITS if tally.prompts[split]},
        "tasks": tally.tasks,
        "judgments": tally.judgments,
        "simulated_judgments": tally.simulated,
        "annotators": len(tally.annotators),
        "policies": dict(sorted(tally.policies.items())),
        "protocol_versions": sorted(tally.protocols),
        "guidelines_versions": sorted(tally.guidelines),
        "languages": {name: count for name, count in sorted(tally.languages.items()) if name},
        # Of two annotators' verdicts on two responses, how many say the same.
        "agreement": {
            "compared": tally.compared,
            "share": round(tally.agreed / tally.compared, 6) if tally.compared else None,
        },
        "newest_policy": export.rules.newest_policy,
        "code_version": package_version("rlhf-loop"),
    }
