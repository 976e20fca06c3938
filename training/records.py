"""The wire types between the web application and the trainers: plain JSON, checked where it is read."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

ROLES = ("system", "user", "assistant", "tool")
MOST_RESPONSES = 9  # of a task


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the line."""


class RewardError(RuntimeError):
    """A reward could not be had; the message says from where."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Messages = list[Message]


@dataclass(frozen=True)
class PromptRow:
    """A conversation to answer."""

    prompt: Messages
    id: str = ""


@dataclass(frozen=True)
class CompletionRow:
    """A conversation and the answer to learn."""

    prompt: Messages
    completion: Messages


@dataclass(frozen=True)
class PreferenceRow:
    """Two answers to a conversation; margin is from 0 (a tie, nearly) to 1, weight scales the row's loss."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None
    weight: float = 1.0
    id: str = ""
    prompt_id: str = ""


@dataclass(frozen=True)
class RankingRow:
    """Two answers or more to a conversation; ranks count up from the best, equal ones tie."""

    prompt: Messages
    responses: list[Messages]
    ranks: list[int]
    weight: float = 1.0
    id: str = ""
    prompt_id: str = ""

    def pairs(self) -> list[PreferenceRow]:
        """Return every pair of which one answer is ranked better."""
        return [
            PreferenceRow(self.prompt, self.responses[i], self.responses[j], None, self.weight, self.id, self.prompt_id)
            for i, ours in enumerate(self.ranks)
            for j, theirs in enumerate(self.ranks)
            if ours < theirs
        ]


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: an object is needed")
                yield number, row
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}") from error


def parse_messages(value: object, where: str, role: str = "user") -> Messages:
    """Return messages from a list of them, or from plain text as one message of the given role."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: text or a list of messages is needed")
    messages: Messages = []
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or not isinstance(item.get("content"), str) or item.get("role") not in ROLES:
            raise DataError(f"{where}[{index}]: role ({', '.join(ROLES)}) and content are needed")
        messages.append({"role": str(item["role"]), "content": str(item["content"])})
    return messages


def read_prompts(path: str | Path) -> list[PromptRow]:
    """Read {"prompt": messages or text} lines; raises DataError naming the line, or that there is none."""
    rows = [
        PromptRow(parse_messages(row.get("prompt"), f"{path}:{number}: prompt"), str(row.get("id", number)))
        for number, row in read_lines(path)
    ]
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def read_completions(path: str | Path) -> list[CompletionRow]:
    """Read {"prompt", "completion"} lines; raises as read_prompts does."""
    rows = [
        CompletionRow(
            parse_messages(row.get("prompt"), f"{path}:{number}: prompt"),
            parse_messages(row.get("completion"), f"{path}:{number}: completion", "assistant"),
        )
        for number, row in read_lines(path)
    ]
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def read_preferences(path: str | Path) -> list[PreferenceRow]:
    """Read {"prompt", "chosen", "rejected", "margin"?, "weight"?, "id"?, "prompt_id"?} lines; raises as read_prompts.

    Without a prompt, chosen and rejected are whole conversations (TRL's implicit form): what they share is the prompt.
    """
    rows = [_preference(row, f"{path}:{number}") for number, row in read_lines(path)]
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def read_judged(path: str | Path) -> list[PreferenceRow | RankingRow]:
    """Read lines as read_preferences does, and among them {"prompt", "responses", "ranks"} ones; raises as it does."""
    rows = [
        (_ranking if "responses" in row else _preference)(row, f"{path}:{number}") for number, row in read_lines(path)
    ]
    if not rows:
        raise DataError(f"{path}: no rows")
    return rows


def _ranking(row: dict[str, Any], where: str) -> RankingRow:
    prompt, given, ranks = parse_messages(row.get("prompt"), f"{where}: prompt"), row["responses"], row.get("ranks")
    if not isinstance(given, list) or not 2 <= len(given) <= MOST_RESPONSES:
        raise DataError(f"{where}: responses: 2 to {MOST_RESPONSES} are needed")
    if not isinstance(ranks, list) or len(ranks) != len(given) or not all(type(rank) is int for rank in ranks):
        raise DataError(f"{where}: ranks: a whole number is needed for each response")
    return RankingRow(
        prompt=prompt,
        responses=[parse_messages(each, f"{where}: responses[{i}]", "assistant") for i, each in enumerate(given)],
        ranks=list(ranks),
        weight=read_number(row.get("weight", 1.0), f"{where}: weight", minimum=0.0),
        id=str(row.get("id", "")),
        prompt_id=str(row.get("prompt_id") or json.dumps(prompt, sort_keys=True)),
    )


def _preference(row: dict[str, Any], where: str) -> PreferenceRow:
    chosen = parse_messages(row.get("chosen"), f"{where}: chosen", "assistant")
    rejected = parse_messages(row.get("rejected"), f"{where}: rejected", "assistant")
    if row.get("prompt") is not None:
        prompt = parse_messages(row["prompt"], f"{where}: prompt")
    else:
        shared = _shared_turns(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt or not chosen or not rejected:
            raise DataError(f"{where}: prompt is missing, and chosen and rejected share no first turn that they answer")
    margin = row.get("margin")
    return PreferenceRow(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        margin=None if margin is None else read_number(margin, f"{where}: margin"),
        weight=read_number(row.get("weight", 1.0), f"{where}: weight", minimum=0.0),
        id=str(row.get("id", "")),
        prompt_id=str(row.get("prompt_id") or json.dumps(prompt, sort_keys=True)),
    )


def _shared_turns(chosen: Messages, rejected: Messages) -> int:
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return shared


def read_number(value: object, where: str, minimum: float = float("-inf")) -> float:
    """Return a finite number of at least `minimum`; raises DataError naming where it was looked for."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= sys.float_info.max
        or value < minimum
    ):
        raise DataError(f"{where}: a number is needed, not {value!r}")
    return float(value)


class CanaryPrompt(TypedDict):
    """A prompt as rendered, with the tokens greedy decoding gives and their log-probabilities."""

    inputs: str
    tokens: list[int]
    logprobs: list[float]


class Canary(TypedDict):
    """What the trainer measured of the saved model: the endpoint must answer the same."""

    max_new_tokens: int
    prompts: list[CanaryPrompt]


class ManifestFile(TypedDict):
    """One file of a directory, relative to it."""

    size: int
    sha256: str


class Manifest(TypedDict):
    """What a stage's directory holds; written last and atomically, so its presence says that the stage is done."""

    stage: str
    files: dict[str, ManifestFile]
    parents: dict[str, str]
    data_sha256: dict[str, str]
    config_sha256: str
    versions: dict[str, str]


MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_manifest(directory: str | Path) -> Manifest:
    """Return the manifest of a directory whose files are all there and unchanged.

    Raises:
        DataError: there is no manifest, or names the file that is missing or differs.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {str(name): (int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no manifest: {type(error).__name__}: {error}") from error
    for name, (size, sha256) in files.items():
        file = Path(directory) / name
        if not file.is_file() or file.stat().st_size != size:
            raise DataError(f"{file}: is missing or has another size than the manifest says")
        if file_sha256(file) != sha256:
            raise DataError(f"{file}: differs from the manifest")
    return manifest
