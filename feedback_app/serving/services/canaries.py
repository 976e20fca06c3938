"""What an endpoint answers greedily beside what the trainer measured, and how near the two come on that endpoint."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from django.utils import timezone

from feedback_app.serving.backends import Backend, BackendError, backend_of
from feedback_app.serving.backends.base import read_canary
from feedback_app.serving.models import Endpoint, PolicyVersion
from training.records import CanaryPrompt

# Bounds of a tolerance: rounding in bfloat16 may always be so far apart, and weights of another version are farther.
TIGHTEST, WIDEST = 0.1, 0.5
# The tightest where no trainer has measured what is live: another order of summing is farther apart than a repeat.
UNCOMPARED = 0.25
# A few prompts do not show the worst that a version will.
HEADROOM = 3.0
# After each prompt alone: so often all at once, for kernels change with the batch.
REPEATS = 2
# Two tokens whose log-probabilities are so near may take each other's place when the batch is another.
NEAR_TIE = 0.1
PLAIN_TOKENS = 12
PLAIN_PROMPTS: list[CanaryPrompt] = [
    {"inputs": inputs, "tokens": [], "logprobs": []}
    for inputs in ("The capital of France is", "Once upon a time there was", "One, two, three,", "To boil an egg,")
]


class CanaryApart(BackendError):
    """An answer is not the trainer's; apart is the largest difference of a log-probability that was seen."""

    def __init__(self, message: str, *, apart: float) -> None:
        super().__init__(message)
        self.apart = apart


def canary_difference(answer: CanaryPrompt, expected: CanaryPrompt, tolerance: float) -> float:
    """Return the largest difference of a log-probability, up to and with the first token that is another.

    There two tokens were nearly equal, or their log-probabilities differ too: each side took its likeliest.

    Raises:
        CanaryApart: it is more than the tolerance, or the answer ends before the trainer's.
    """
    worst = 0.0
    for apart, same in _steps(answer, expected):
        if not apart <= tolerance:  # NaN is no agreement
            raise CanaryApart(
                f"a token's log-probability is {apart:.3f} from the trainer's; {tolerance:.3g} is allowed", apart=apart
            )
        worst = max(worst, apart)
        if not same:
            return worst
    if len(answer["tokens"]) != len(expected["tokens"]):
        raise CanaryApart(
            f"{len(answer['tokens'])} tokens came where the trainer had {len(expected['tokens'])}", apart=worst
        )
    return worst


def _steps(answer: CanaryPrompt, other: CanaryPrompt) -> Iterator[tuple[float, bool]]:
    """Yield of each token how far its log-probabilities are apart, and whether it is the same."""
    for mine, theirs, a, b in zip(
        answer["tokens"], other["tokens"], answer["logprobs"], other["logprobs"], strict=False
    ):
        yield abs(a - b), mine == theirs


def canary_distance(answer: CanaryPrompt, other: CanaryPrompt) -> float:
    """Return how far two answers are apart: infinite where a token differs, else the largest difference."""
    if answer["tokens"] != other["tokens"]:
        return float("inf")
    return max((abs(a - b) for a, b in zip(answer["logprobs"], other["logprobs"], strict=True)), default=0.0)


def can_be_measured(*, endpoint: Endpoint, policy: PolicyVersion) -> bool:
    """Say whether a version tells more of its endpoint than is known: anything, or how far it is from the trainer."""
    known = endpoint.calibration
    return not known or (known.get("from_trainer") is None and read_canary(policy) is not None)


def calibrate_endpoint(*, endpoint: Endpoint, policy: PolicyVersion) -> Endpoint:
    """Set the tolerance of an endpoint by what a version that it serves answers to the canary, asked again and again.

    The version's own canary.json, where there is one, says what the trainer measured of it.

    Raises:
        BackendError: the endpoint cannot be asked, does not repeat itself, or is farther from the trainer than any
            tolerance may be.
        DataError: the version's canary.json is none.
    """
    canary = read_canary(policy)
    prompts = canary["prompts"] if canary else PLAIN_PROMPTS
    rounds = _ask_repeatedly(
        backend_of(endpoint), policy, prompts, canary["max_new_tokens"] if canary else PLAIN_TOKENS
    )
    repeats = max(_repeated(endpoint, rounds[0][i], again[i]) for again in rounds[1:] for i in range(len(prompts)))
    from_trainer = None
    if canary is not None:
        from_trainer = max(_from_trainer(endpoint, policy, *pair) for pair in zip(rounds[0], prompts, strict=True))
    least = UNCOMPARED if from_trainer is None else TIGHTEST
    endpoint.canary_tolerance = round(min(max(HEADROOM * max(repeats, from_trainer or 0.0), least), WIDEST), 3)
    endpoint.calibration = {
        "at": timezone.now().isoformat(), "policy": policy.name, "repeats": repeats, "from_trainer": from_trainer,
    }  # fmt: skip
    endpoint.save(update_fields=["canary_tolerance", "calibration"])
    return endpoint


def _ask_repeatedly(
    backend: Backend, policy: PolicyVersion, prompts: Sequence[CanaryPrompt], tokens: int
) -> list[list[CanaryPrompt]]:
    """Return the answers to the prompts, asked one after the other and then several times all at once."""
    rounds = [[backend.greedy(policy, prompt, tokens) for prompt in prompts]]
    with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
        for _ in range(REPEATS):
            rounds.append(list(pool.map(lambda prompt: backend.greedy(policy, prompt, tokens), prompts)))
    return rounds


def _repeated(endpoint: Endpoint, first: CanaryPrompt, again: CanaryPrompt) -> float:
    """Return how far a repeat is apart; raises BackendError where it is another answer, as of a server that draws."""
    if not first["tokens"]:
        raise BackendError(f"endpoint {endpoint.name}: answers nothing")
    worst = 0.0
    for apart, same in _steps(first, again):
        if not apart <= (WIDEST if same else NEAR_TIE):
            raise BackendError(
                f"endpoint {endpoint.name}: does not repeat itself: asked twice for its likeliest tokens, it gave"
                f" {'the same one' if same else 'another one'} {apart:.3f} apart in log-probability; it may be drawing"
                " by chance, or several servers of different weights may stand behind its address"
            )
        worst = max(worst, apart)
        if not same:
            return worst
    if len(first["tokens"]) != len(again["tokens"]):
        raise BackendError(
            f"endpoint {endpoint.name}: does not repeat itself: {len(first['tokens'])} tokens came, and"
            f" {len(again['tokens'])} when it was asked again"
        )
    return worst


def _from_trainer(endpoint: Endpoint, policy: PolicyVersion, answer: CanaryPrompt, expected: CanaryPrompt) -> float:
    try:
        return canary_difference(answer, expected, WIDEST)
    except BackendError as error:
        raise BackendError(
            f"endpoint {endpoint.name}: does not answer with {policy.name} as the trainer measured it: {error}; its"
            " weights are others, or its arithmetic is too coarse to tell versions apart"
        ) from error
