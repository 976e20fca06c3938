"""What an import keeps of a batch while it stores it."""

from dataclasses import dataclass, field

from feedback_app.datasets.rows import Row, RowJudgment


@dataclass(kw_only=True)
class Loaded:
    """What became of a batch's rows."""

    new: int = 0
    known: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Place:
    """A task that rows of this batch mean, stored already or about to be."""

    task_id: str
    stored: bool
    response_ids: list[str]
    # The prompt's hash, and the ordered (text, model) pairs.
    content: tuple[str, tuple[tuple[str, str], ...]]
    # By annotator: the hash of the judgment that stands, in the table or in this batch.
    judged: dict[str, str] = field(default_factory=dict)
    # With the id() of the row that brought it: a line may hold several rows.
    added: list[tuple[RowJudgment, int]] = field(default_factory=list)
    row: Row | None = None
