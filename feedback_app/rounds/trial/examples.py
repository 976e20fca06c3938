"""The examples of a try: the longest there are, written to files of its own; no dataset version is made of them."""

import heapq
import json
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from feedback_app.annotation.models import Prompt
from feedback_app.datasets.exporting.options import parse_options
from feedback_app.datasets.exporting.rows import prepare_export
from feedback_app.projects.models import Project
from feedback_app.rounds.recipes import Recipe
from training.config import PPOConfig, RewardConfig, SFTConfig, make_config

# So many rows are looked through for the longest.
LOOKED_THROUGH = 5_000
# The third batch is there so that the second step is no stage's last, which has more to do than step.
BATCHES = 3


def write_examples(*, project: Project, recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Write train, validation, prompts and evaluate, and sft where there are rewrites and the recipe learns from them.

    Raises:
        ValueError: there is nothing to learn from by this recipe.
    """
    reward = make_config(RewardConfig, {"model": "x", "train": "x", **recipe.reward})
    ppo = make_config(PPOConfig, {"policy": "x", "reward": "x", "prompts": "x", **recipe.ppo})
    pairs = _longest(_exported(project, "preference", recipe), BATCHES * reward.batch)
    if not pairs:
        raise ValueError(_("no judgment on the train side makes a pair by this recipe"))
    prompts = _longest(_prompts(project), max(ppo.rollout_batch, 2 * int(recipe.evaluate.get("batch", 16))))
    if not prompts:
        raise ValueError(_("the project has no active prompts on the train side for PPO to learn on"))
    batch = int(recipe.evaluate.get("batch", 16))
    files = {
        "train": (pairs, BATCHES * reward.batch),
        "validation": (pairs[-1:], 1),
        "prompts": (prompts, ppo.rollout_batch),
        "evaluate": (prompts, 2 * batch),
    }
    if recipe.use_sft and (written := _longest(_exported(project, "sft", recipe), BATCHES * _sft_batch(recipe))):
        files["sft"] = (written, BATCHES * _sft_batch(recipe))
    return {name: _write(folder / f"{name}.jsonl", lines, count) for name, (lines, count) in files.items()}


def _sft_batch(recipe: Recipe) -> int:
    return make_config(SFTConfig, {"model": "x", "train": "x", **recipe.sft}).batch


def _exported(project: Project, format: str, recipe: Recipe) -> Iterator[str]:
    """Yield the rows that the export step would take, up to as many as are looked through."""
    options = parse_options({"truncated": True, **recipe.judgments})
    export = prepare_export(project=project, format=format, options=options, split=Prompt.Split.TRAIN)
    return (line for _split, line in islice(export.lines(), LOOKED_THROUGH))


def _prompts(project: Project) -> Iterator[str]:
    found = Prompt.objects.filter(project=project, split=Prompt.Split.TRAIN, active=True).order_by("id")
    for pk, messages in found.values_list("id", "messages")[:LOOKED_THROUGH]:
        yield json.dumps({"id": str(pk), "prompt": messages}, ensure_ascii=False)


def _longest(lines: Iterable[str], count: int) -> list[str]:
    return heapq.nlargest(count, lines, key=len)


def _write(path: Path, lines: list[str], count: int) -> Path:
    """Write so many rows: the same ones again where there are fewer."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{_renamed(line, place)}\n" for place, line in enumerate(islice(cycle(lines), count)))
    return path


def _renamed(line: str, place: int) -> str:
    """Give a row an id of its own: one that comes again is another example to a trainer."""
    row: dict[str, Any] = json.loads(line)
    return json.dumps({**row, "id": f"{row.get('id', '')}-{place}"}, ensure_ascii=False)
