"""What a policy can still do after it has learned to please: short questions, summaries, replies with known answers.

The price is known as the alignment tax (Ouyang et al. 2022, arXiv:2203.02155): so the policy stands beside its parent
and the base, item by item, and what is reported is the difference with its interval.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import EvaluateConfig
from training.likelihood import reply_logprobs
from training.models import encode, render_prompt
from training.overlap import answer_f1, exact_match, rouge_scores
from training.records import DataError, Message, Messages, parse_messages, read_lines
from training.rollout import Sampling, sample_responses
from training.statistics import mean_interval

OURS = Path(__file__).with_name("skills.jsonl")
# By kind: what an item is measured by, the higher the better. Log-probabilities are of the reference, a token.
SCORES = {"qa": ("exact", "f1"), "summary": ("rouge1", "rouge2", "rougeL"), "dialogue": ("rougeL", "logprob")}
# An answer is cut off where the longest one that is expected of its kind ends, within these bounds; in tokens.
SHORTEST, LONGEST = 16, 128
# Of a longer prompt the end is read; in tokens, what is to be answered included.
WINDOW = 2048


@dataclass(frozen=True)
class SkillItem:
    """A conversation to answer and what is accepted; group says which items are not independent of each other."""

    kind: str
    messages: Messages
    accepted: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class SkillResult:
    """What a model answered, and how it was scored; cut says that it did not see the prompt's beginning."""

    text: str
    scores: dict[str, float]
    cut: bool


def read_skills(path: str | Path) -> list[SkillItem]:
    """Read {"kind", "prompt", "context"?, "answers" (qa) or "reference" (summary, dialogue), "example"?} lines.

    A context stands before the prompt's last message. Lines marked as examples are asked of nobody: they are shown,
    answered, before each item of their kind.

    Raises:
        DataError: names the file and the line, or that there is nothing to ask.
    """
    examples: dict[str, Messages] = {kind: [] for kind in SCORES}
    items = []
    for number, row in read_lines(path):
        item = _item(row, f"{path}:{number}")
        if row.get("example", False):
            examples[item.kind] += [*item.messages, Message(role="assistant", content=item.accepted[0])]
        else:
            items.append(item)
    if not items:
        raise DataError(f"{path}: no rows to ask")
    return [
        SkillItem(item.kind, _after_system(item.messages, examples[item.kind]), item.accepted, item.group)
        for item in items
    ]


def _item(row: Mapping[str, Any], where: str) -> SkillItem:
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in SCORES:
        raise DataError(f"{where}: kind: one of {', '.join(SCORES)}, not {kind!r}")
    if not isinstance(row.get("example", False), bool):
        raise DataError(f"{where}: example: true or false, not {row['example']!r}")
    messages = parse_messages(row.get("prompt"), f"{where}: prompt")
    context = row.get("context", "")
    if not isinstance(context, str):
        raise DataError(f"{where}: context: a text is needed")
    if context:
        last = messages[-1]
        messages = [*messages[:-1], Message(role=last["role"], content=f"{context}\n\n{last['content']}")]
    group = context or json.dumps(messages, sort_keys=True)
    return SkillItem(kind, messages, _accepted(kind, row, where), group)


def _accepted(kind: str, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return what is accepted: of a question any of several answers, none or "" where it has no answer."""
    if kind != "qa":
        reference = row.get("reference")
        if not isinstance(reference, str) or not reference.strip():
            raise DataError(f"{where}: reference: a text is needed")
        return (reference,)
    answers = row.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{where}: answers: a list of texts is needed")
    return tuple(answers) or ("",)


def _after_system(messages: Messages, examples: Messages) -> Messages:
    begins = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    return [*messages[:begins], *examples, *messages[begins:]]


def choose_skills(items: Sequence[SkillItem], count: int, seed: int) -> list[SkillItem]:
    """Return at most `count` items of each kind, by a hash: a longer file keeps most of a shorter one's choice."""

    def place(item: SkillItem) -> bytes:
        return hashlib.sha256(f"{seed}:{json.dumps(item.messages, sort_keys=True)}".encode()).digest()

    return [item for kind in SCORES for item in sorted((i for i in items if i.kind == kind), key=place)[:count]]


class SkillTest:
    """The items of one evaluation, put to one model after the other."""

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        read = read_skills(config.skills or OURS) if config.skill_items else []
        self.items = choose_skills(read, config.skill_items, config.seed)

    @property
    def batches(self) -> int:
        """Return how many batches one model takes."""
        counts = [sum(item.kind == kind for item in self.items) for kind in SCORES]
        return sum(-(-count // self.config.batch) for count in counts)

    def put_to(self, model: Any, tokenizer: Any, done: Callable[[], None]) -> list[SkillResult]:
        """Return a result for each item, answered greedily; `done` is called after each batch."""
        results: dict[int, SkillResult] = {}
        for kind in SCORES:
            indexes = [index for index, item in enumerate(self.items) if item.kind == kind]
            for place, result in self._answer_kind(model, tokenizer, [self.items[i] for i in indexes], done):
                results[indexes[place]] = result
        return [results[index] for index in range(len(self.items))]

    def _answer_kind(
        self, model: Any, tokenizer: Any, items: Sequence[SkillItem], done: Callable[[], None]
    ) -> Iterator[tuple[int, SkillResult]]:
        """Yield (place among the items, result), batch by batch; prompts of like length stand together."""
        if not items:
            return
        replies = [[encode(tokenizer, accepted) for accepted in item.accepted] for item in items]
        longest = max(len(reply) for several in replies for reply in several)
        room = min(WINDOW, getattr(model.config, "max_position_embeddings", WINDOW))
        limit = min(max(SHORTEST, longest), LONGEST, room // 2)
        window = room - limit
        prompts = [encode(tokenizer, render_prompt(tokenizer, item.messages)) for item in items]
        order = sorted(range(len(items)), key=lambda place: len(prompts[place]))
        for start in range(0, len(order), self.config.batch):
            places = order[start : start + self.config.batch]
            asked = [prompts[place][-window:] for place in places]
            rollout = sample_responses(model, tokenizer, asked, Sampling(limit, greedy=True), [0] * len(asked))
            texts = [str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in rollout.responses()]
            scores = [score_answer(items[place], text) for place, text in zip(places, texts, strict=True)]
            if items[0].kind == "dialogue":
                # A tokenizer may know none of a reference's characters: one token at least is asked for.
                references = [(replies[place][0] or [tokenizer.pad_token_id])[:limit] for place in places]
                totals = reply_logprobs(model, asked, references, tokenizer.pad_token_id)
                for one, total, reference in zip(scores, totals, references, strict=True):
                    one["logprob"] = total / len(reference)
            for place, text, one in zip(places, texts, scores, strict=True):
                yield place, SkillResult(text, one, cut=len(prompts[place]) > window)
            done()

    def metrics(self, ours: Sequence[SkillResult], others: Mapping[str, Sequence[SkillResult]]) -> dict[str, float]:
        """Return each score's mean, and how far it is from each other's: paired by item, the interval over groups."""
        values: dict[str, float] = {}
        for kind, names in SCORES.items():
            chosen = [index for index, item in enumerate(self.items) if item.kind == kind]
            if not chosen:
                continue
            values[f"n/skills_{kind}"] = len(chosen)
            for name in names:
                values |= self._compared(f"skills/{kind}_{name}", name, chosen, ours, others)
        if cut := sum(result.cut for result in ours):
            values["n/skills_cut"] = cut
        return values

    def _compared(
        self,
        key: str,
        name: str,
        chosen: Sequence[int],
        ours: Sequence[SkillResult],
        others: Mapping[str, Sequence[SkillResult]],
    ) -> dict[str, float]:
        own = [ours[index].scores[name] for index in chosen]
        values = {key: sum(own) / len(own)}
        groups = [self.items[index].group for index in chosen]
        for role, results in others.items():
            theirs = [results[index].scores[name] for index in chosen]
            values[f"{key}_{role}"] = sum(theirs) / len(theirs)
            apart = [a - b for a, b in zip(own, theirs, strict=True)]
            change, low, high = mean_interval(
                apart, groups, draws=self.config.bootstrap, seed=self.config.seed, unknown=(-1.0, 1.0)
            )
            values |= {f"{key}_change_{role}{end}": v for end, v in (("", change), ("_low", low), ("_high", high))}
        return values

    def write(self, path: Path, by_role: Mapping[str, Sequence[SkillResult]]) -> None:
        """Write every item with each model's answer and its scores."""
        with path.open("w", encoding="utf-8") as file:
            for index, item in enumerate(self.items):
                line: dict[str, Any] = {"kind": item.kind, "prompt": item.messages, "accepted": item.accepted}
                line |= {role: {"text": r[index].text, "scores": r[index].scores} for role, r in by_role.items()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def score_answer(item: SkillItem, text: str) -> dict[str, float]:
    """Return an answer's scores by name, but for those that need the model."""
    if item.kind == "qa":
        return {"exact": exact_match(text, item.accepted), "f1": answer_f1(text, item.accepted)}
    found = rouge_scores(text, item.accepted[0])
    return {name: found[name] for name in SCORES[item.kind] if name in found}
