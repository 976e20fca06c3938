"""One token drawn from one row of logits, by noise that depends on nothing but the request's seed and the position.

Nothing here sees a second request, so what runs beside it cannot change an answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# A nucleus nearly always ends this near (nats) to the likeliest token; where it does not, all the vocabulary is sorted.
NUCLEUS_REACHES = (6.0, 12.0)
# A penalised score stays finite, for differences of two are taken.
LARGEST = 1e30
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
    logits_V: NDArray[np.float32], parameters: SamplingParameters, *, prompt: Sequence[int], generated: Sequence[int]
) -> int:
    """Return the next token of one request.

    Penalties come first, then temperature, top-k, top-p and typical-p, as in transformers' warpers. The draw is the
    Gumbel-max trick: argmax(logits + noise), the noise keyed by (seed, len(generated), token id).

    Args:
        logits_V: one row, left as it is. NumPy's, for a row of 50,000 is too short to wake a second thread for.
        prompt, generated: token ids so far; the repetition penalty sees both, the other two see generated only.
    """
    scores_V = _penalise(logits_V, parameters, prompt, generated)
    if not parameters.do_sample:
        return int(scores_V.argmax())
    # The best score becomes 0 first: then it stays finite at any temperature, however small.
    with np.errstate(over="ignore"):
        scores_V = (scores_V - scores_V.max()) / np.float32(parameters.temperature)
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
    logits_V: NDArray[np.float32], parameters: SamplingParameters, prompt: Sequence[int], generated: Sequence[int]
) -> NDArray[np.float32]:
    if parameters.repetition_penalty != 1.0:
        # arXiv:1909.05858, section 4.1; negative scores are multiplied, as everybody's implementation does.
        seen = np.array(sorted({*prompt, *generated}), dtype=np.int64)
        scores = logits_V[seen].astype(np.float64)
        penalty = parameters.repetition_penalty
        penalised = np.where(scores < 0, scores * penalty, scores / penalty)
        logits_V = logits_V.copy()
        logits_V[seen] = penalised.clip(-LARGEST, LARGEST)
    if generated and (parameters.frequency_penalty or parameters.presence_penalty):
        # OpenAI's definition: logit - count * frequency_penalty - [count > 0] * presence_penalty.
        counts = Counter(generated)
        loss = [n * parameters.frequency_penalty + parameters.presence_penalty for n in counts.values()]
        logits_V = logits_V.copy()
        logits_V[list(counts)] -= np.array(loss, dtype=np.float32)
    return logits_V


def _keep(
    scores_V: NDArray[np.float32], parameters: SamplingParameters
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the scores and ids of the tokens that may be drawn; the best score is 0."""
    kept, tokens = scores_V, np.arange(len(scores_V))
    if parameters.top_k is not None and parameters.top_k < len(scores_V):
        index = torch.from_numpy(scores_V).topk(parameters.top_k).indices.numpy()
        kept, tokens = kept[index], tokens[index]
    if parameters.top_p is not None and parameters.top_p < 1:
        index = _nucleus(kept, parameters.top_p)
        kept, tokens = kept[index], tokens[index]
    if parameters.typical_p is not None and parameters.typical_p < 1:
        index = _typical(kept, parameters.typical_p)
        kept, tokens = kept[index], tokens[index]
    return kept, tokens


def _nucleus(scores: NDArray[np.float32], top_p: float) -> NDArray[np.int64]:
    """Return where the smallest set of likeliest tokens is whose probability reaches top_p (arXiv:1904.09751)."""
    masses = np.exp(scores)
    wanted = top_p * float(masses.sum(dtype=np.float64))
    for reach in NUCLEUS_REACHES:
        near = np.flatnonzero(scores >= -reach)
        if float(masses[near].sum(dtype=np.float64)) > wanted:
            break
    else:
        near = np.arange(len(scores))
    likeliest = near[np.argsort(-scores[near], kind="stable")]
    mass = np.cumsum(masses[likeliest], dtype=np.float64)
    # A token stays while what stands before it has not reached top_p, so that one stays at least.
    return likeliest[: 1 + int((mass[:-1] < wanted).sum())]


def _typical(scores: NDArray[np.float32], typical_p: float) -> NDArray[np.int64]:
    """Return where the tokens of a surprise nearest to the entropy are, to a mass of typical_p (arXiv:2202.00666)."""
    masses = np.exp(scores.astype(np.float64))
    probabilities = masses / masses.sum()
    logprobs = scores - np.log(masses.sum())
    entropy = -float(np.sum(probabilities * logprobs, where=probabilities > 0))
    nearest = np.argsort(np.abs(logprobs + entropy), kind="stable")
    mass = probabilities[nearest].cumsum()
    return nearest[: 1 + int((mass[:-1] < typical_p).sum())]
