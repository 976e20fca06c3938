"""One token drawn from one row of logits, by noise that depends on nothing but the request's seed and the position.

Nothing here sees a second request, so what runs beside it cannot change an answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A nucleus is nearly always inside the likeliest thousand tokens; only where it is not is the vocabulary sorted whole.
NUCLEUS_GUESS = 1024
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class SamplingParameters:
    """How a request wants its tokens drawn; without do_sample the likeliest one is taken and the warpers are idle."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0


def draw_token(
    logits_V: Tensor, parameters: SamplingParameters, *, prompt: Sequence[int], generated: Sequence[int]
) -> int:
    """Return the next token of one request.

    Penalties come first, then temperature, top-k, top-p and typical-p, as in transformers' warpers. The draw is the
    Gumbel-max trick: argmax(logits + noise), the noise keyed by (seed, len(generated), token id).

    Args:
        logits_V: float32, on the CPU; left as it is.
        prompt, generated: token ids so far; the repetition penalty sees both, the other two see generated only.
    """
    scores_V = _penalise(logits_V, parameters, prompt, generated)
    if not parameters.do_sample:
        return int(scores_V.argmax())
    scores_V = scores_V / parameters.temperature
    kept_K, tokens_K = _keep(scores_V, parameters)
    noise_K = gumbel_noise(parameters.seed, len(generated), tokens_K)
    winner = int(np.argmax(kept_K.astype(np.float64) + noise_K))
    return int(tokens_K[winner])


def gumbel_noise(seed: int, position: int, tokens_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise for some token ids at one position of one seed: a pure function of the three.

    Uniform numbers are splitmix64's (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), their
    upper 53 bits, shifted half a step off zero so that both logarithms are finite.
    """
    key = _mix_int(_mix_int(seed & _MASK) + position * _GOLDEN)
    state_K = np.uint64(key) + tokens_K.astype(np.uint64) * np.uint64(_GOLDEN)
    state_K = (state_K ^ (state_K >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_K = (state_K ^ (state_K >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state_K ^= state_K >> np.uint64(31)
    uniform_K = ((state_K >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise_K: NDArray[np.float64] = -np.log(-np.log(uniform_K))
    return noise_K


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _penalise(
    logits_V: Tensor, parameters: SamplingParameters, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    if parameters.repetition_penalty != 1.0:
        # arXiv:1909.05858, section 4.1; negative scores are multiplied, as everybody's implementation does.
        seen = torch.tensor(sorted({*prompt, *generated}), dtype=torch.long)
        scores = logits_V[seen]
        penalty = parameters.repetition_penalty
        logits_V = logits_V.index_put((seen,), torch.where(scores < 0, scores * penalty, scores / penalty))
    if generated and (parameters.frequency_penalty or parameters.presence_penalty):
        # OpenAI's definition: logit - count * frequency_penalty - [count > 0] * presence_penalty.
        counts = Counter(generated)
        loss = [n * parameters.frequency_penalty + parameters.presence_penalty for n in counts.values()]
        index = torch.tensor(list(counts), dtype=torch.long)
        logits_V = logits_V.index_put((index,), logits_V[index] - torch.tensor(loss))
    return logits_V


def _keep(scores_V: Tensor, parameters: SamplingParameters) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the scores and ids of the tokens that may be drawn."""
    kept, tokens = scores_V, None
    if parameters.top_k is not None and parameters.top_k < len(scores_V):
        kept, tokens = scores_V.topk(parameters.top_k)
    if parameters.top_p is not None and parameters.top_p < 1:
        kept, tokens = _nucleus(kept, tokens, parameters.top_p)
    if parameters.typical_p is not None and parameters.typical_p < 1:
        kept, tokens = _typical(kept, tokens, parameters.typical_p)
    if tokens is None:
        tokens = torch.arange(len(scores_V))
    return kept.numpy(), tokens.numpy()


def _nucleus(scores: Tensor, tokens: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """Keep the smallest set of likeliest tokens whose probability reaches top_p (arXiv:1904.09751)."""
    total = torch.logsumexp(scores, 0)
    for size in (min(NUCLEUS_GUESS, len(scores)), len(scores)):
        best, index = scores.topk(size)
        mass = torch.cumsum(torch.exp(best - total).double(), 0)
        if mass[-1] >= top_p or size == len(scores):
            break
    # A token stays while what stands before it has not reached top_p, so that one stays at least.
    count = 1 + int((mass[:-1] < top_p).sum())
    index = index[:count]
    return best[:count], index if tokens is None else tokens[index]


def _typical(scores: Tensor, tokens: Tensor | None, typical_p: float) -> tuple[Tensor, Tensor]:
    """Keep the tokens whose surprise is nearest to the entropy, up to a mass of typical_p (arXiv:2202.00666)."""
    logprobs = torch.log_softmax(scores, 0)
    probabilities = logprobs.exp()
    entropy = -(probabilities * logprobs).nansum()
    _, nearest = torch.sort((logprobs + entropy).abs())
    mass = probabilities[nearest].double().cumsum(0)
    index = nearest[: 1 + int((mass[:-1] < typical_p).sum())]
    return scores[index], index if tokens is None else tokens[index]
