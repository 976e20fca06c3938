"""A reward model that stays a language model: it learns to write the chosen answers too (arXiv:2307.04964, eq. 3)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from training.batches import make_batch
from training.comparisons import Comparison
from training.config import ConfigError, RewardConfig
from training.head import state_logprobs
from training.models import inner_model, load_causal, output_weight, resolve_dtype, response_states


class ChosenLanguage:
    """The language-modelling loss of a reward model's trunk on the best answer of each comparison that has one.

    The output embeddings are the input's where a model ties them, and learn with it. Else they are those of the
    language model it starts from, held still: they are no part of a reward model's directory.
    """

    def __init__(self, config: RewardConfig, model: Any, pad: int, *, was_scorer: bool) -> None:
        self.model, self.pad = model, pad
        self.weight_VH: Tensor | None = None
        if not inner_model(model).config.tie_word_embeddings:
            if was_scorer:
                raise ConfigError(f"lm_coef: 0, for {config.model} is a reward model and has no output embeddings")
            causal = load_causal(config.model, resolve_dtype(config.dtype))
            self.weight_VH = output_weight(causal).detach()

    def loss(self, comparisons: Sequence[Comparison], whole: Sequence[Comparison]) -> Tensor | None:
        """Return the negative log-likelihood of the best answers' tokens, a mean over those of the whole batch.

        Of a part of a batch it is its part of the whole's; None where it has no best answer.
        """
        rows = [split for each in comparisons if (split := split_best(each)) is not None]
        if not rows:
            return None
        batch = make_batch([given for given, _ in rows], [learned for _, learned in rows], self.pad)
        weight_VH = inner_model(self.model).get_input_embeddings().weight if self.weight_VH is None else self.weight_VH
        states_BTH = response_states(self.model, batch)
        logprobs_BT = state_logprobs(states_BTH, weight_VH, batch.response_tokens_BT, batch.mask_BT)
        total = sum(len(split[1]) for each in whole if (split := split_best(each)) is not None)
        return -logprobs_BT.sum() / total


def split_best(comparison: Comparison) -> tuple[list[int], list[int]] | None:
    """Return (tokens before, tokens of) the one best answer; None where several tie for it."""
    if comparison.ranks.count(0) != 1:
        return None
    best = comparison.ranks.index(0)
    text, count = comparison.texts[best], comparison.answers[best]
    return text[: len(text) - count], text[len(text) - count :]
