"""PPO-max (arXiv:2307.04964): sample, score, and take a few clipped steps, again and again.

Left out on purpose: asynchronous rollouts. An engine that cannot take new weights every update has no place here.
"""

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import processes
from training.advantages import RunningMoments, masked_mean
from training.alarm import Alarm
from training.batches import Batch
from training.canary import write_canary
from training.checkpoint import OutputDirectory, Stopped, prepare_process, stop_requests
from training.config import PPOConfig, is_directory_reward
from training.critic import Critic, critic_lr, make_critic
from training.data import completion_loss, completion_passes, render_completions
from training.experience import (
    POLICY_METRICS,
    VALUE_LOSS,
    Experience,
    Scored,
    explained_variance,
    make_experience,
    policy_metrics,
    rollout_metrics,
    score_states,
    shape_rewards,
    token_kl,
)
from training.head import state_entropies, state_logprobs
from training.losses import clipped_policy_loss, clipped_value_loss
from training.microbatches import microbatches
from training.models import (
    Reference,
    add_lora,
    check_plain_head,
    checkpoint_activations,
    encode,
    load_causal,
    load_tokenizer,
    output_weight,
    render_prompt,
    resolve_dtype,
    response_states,
    save_model,
)
from training.optimiser import MasterWeights, schedule_scale
from training.records import PromptRow, read_completions, read_prompts
from training.repetition import Repetition
from training.reward_sources import WeightedRewards
from training.rewards import EnsembleReward, judged_together, load_reward
from training.rollout import Rollout, Sampling, draw_seeds, gather_rollout, sample_responses

SCORING_BATCH = 16
SIGNS = ("kl", "length", "watch", "ensemble")


class PPO:
    """The state of a run: policy, reference, critic, their optimisers, and the running moments of the reward."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        config.check(config.rollout_batch >= processes.count(), "rollout_batch", "a prompt for each process at least")
        dtype = resolve_dtype(config.dtype)
        self.tokenizer = load_tokenizer(config.policy, "policy")
        self.policy = load_causal(config.policy, dtype, "policy")
        check_plain_head(self.policy)
        if config.gradient_checkpointing:
            checkpoint_activations(self.policy)
        if config.lora_rank:
            self.policy = add_lora(self.policy, config)
        other = load_causal(config.reference, dtype, "reference") if config.reference else None
        self.reference = Reference(self.policy, other)
        self.critic: Critic = make_critic(config, self.policy)
        self.reward = WeightedRewards(config)
        self.watched_reward = load_reward(config.watch_reward, config.dtype) if config.watch_reward else None
        self.alarm = Alarm(config)
        self.best: tuple[int, list[Tensor]] | None = None  # (updates done, the policy's weights then)
        rate = critic_lr(config)
        policy_weights = list(self.policy.parameters())
        self.policy_optimiser = MasterWeights([(policy_weights, config.lr)], config)
        self.critic_optimiser = MasterWeights([(self.critic.parameters(), rate)], config)
        self.prompts = self._usable_prompts(read_prompts(config.prompts))
        self.ptx = self._ptx_rows() if config.ptx_coef else []
        self.moments = RunningMoments()
        self.kl_coef = config.kl_coef

    def _usable_prompts(self, rows: Sequence[PromptRow]) -> list[tuple[PromptRow, list[int]]]:
        """Render every prompt once; of one that is too long the last max_prompt_length tokens are kept."""
        limit = self.config.max_prompt_length
        return [(row, encode(self.tokenizer, render_prompt(self.tokenizer, row.prompt))[-limit:]) for row in rows]

    def _ptx_rows(self) -> list[tuple[list[int], list[int]]]:
        limit = self.config.max_prompt_length + self.config.response_length
        return render_completions(self.tokenizer, read_completions(self.config.ptx), limit)

    def state(self) -> dict[str, Any]:
        """Return what a resume needs beside the config: all else follows from the number of updates done."""
        return {
            "policy": self.policy_optimiser.state(),
            "critic": self.critic_optimiser.state(),
            "moments": self.moments.state(),
            "kl_coef": self.kl_coef,
            "alarm": self.alarm.state(),
            "best": self.best,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what state() returned."""
        self.policy_optimiser.load(state["policy"])
        self.critic_optimiser.load(state["critic"])
        self.moments.load(state["moments"])
        self.kl_coef = state["kl_coef"]
        self.alarm.load(state["alarm"])
        self.best = state["best"]

    def generator(self, update: int, purpose: int) -> torch.Generator:
        """Return a source of chance that depends on the seed and the place alone: a resume needs to keep none."""
        seed = (self.config.seed * 1_000_003 + update) * 8 + purpose
        return torch.Generator().manual_seed(seed % 2**63)

    def choose_prompts(self, update: int) -> list[tuple[PromptRow, list[int]]]:
        """Return an update's prompts: each pass over all of them is a new shuffle, and no prompt is left out of it."""
        size, count = self.config.rollout_batch, len(self.prompts)
        chosen = []
        for place in range(update * size, (update + 1) * size):
            order = torch.randperm(count, generator=self.generator(place // count, 0))
            chosen.append(self.prompts[int(order[place % count])])
        return chosen

    @torch.no_grad()
    def score(self, rollout: Rollout) -> tuple[Scored, Tensor, Tensor]:
        """Return the policy's pass, the reference's log-probabilities and the critic's values, all (B, T).

        Each process scores the rollout it has, and all get the results of all.
        """
        parts: list[tuple[Scored, Tensor, Tensor]] = []
        total = rollout.batch.responses
        # Rows of like length together, so that little is scored of padding.
        order = rollout.batch.lengths_B.argsort(stable=True)
        for rows in torch.split(order, SCORING_BATCH):
            batch = rollout.batch.select(rows)
            nucleus = None if rollout.nucleus_BTV is None else rollout.nucleus_BTV[rows, : batch.responses]
            states_BTH = response_states(self.policy, batch)
            scored = score_states(states_BTH, output_weight(self.policy), batch, self.config, nucleus)
            values_BT = self.critic.values(batch, states_BTH if self.critic.shares_trunk else None)
            with self.reference.active() as reference:
                from_reference = state_logprobs(
                    response_states(reference, batch),
                    output_weight(reference),
                    batch.response_tokens_BT,
                    batch.mask_BT,
                    self.config.temperature,
                )
            parts.append((scored, from_reference, values_BT))
        whole = partial(_joined, width=total, order_B=order.argsort())
        joined = [whole([getattr(part, name) for part, _, _ in parts]) for name in Scored.__dataclass_fields__]
        return Scored(*joined), whole([part for _, part, _ in parts]), whole([part for _, _, part in parts])

    def roll_out(self, update: int) -> tuple[Experience, dict[str, float], list[dict[str, Any]]]:
        """Sample and score one batch; return what to learn from, its metrics, and its samples.

        Each process samples and scores its share; from there on every one has the whole batch.
        """
        config = self.config
        chosen = self.choose_prompts(update)
        rows, tokens = [row.prompt for row, _ in chosen], [tokens for _, tokens in chosen]
        sampling = Sampling(
            config.response_length, config.temperature, config.top_p, repetition_penalty=config.repetition_penalty
        )
        seeds = processes.share(draw_seeds(self.generator(update, 1), len(chosen)))
        share = sample_responses(self.policy, self.tokenizer, processes.share(tokens), sampling, seeds)
        scored, reference_BT, values_BT = self.score(share)
        rollout = gather_rollout(share, tokens, self.tokenizer.pad_token_id)
        texts = [self.tokenizer.decode(r, skip_special_tokens=True) for r in rollout.responses()]
        scores_B, spread_B, *parts = judged_together(self.reward.judge, rows, texts)
        kl_BT = token_kl(scored, reference_BT, config)
        cautious_B = scores_B - config.ensemble_penalty * spread_B
        rewards_BT = shape_rewards(cautious_B, rollout, kl_BT, self.kl_coef, self.moments, config)
        experience = make_experience(rollout, scored, values_BT, rewards_BT, config)
        metrics = rollout_metrics(rollout, scored, scores_B, kl_BT)
        metrics |= self.reward.part_metrics(parts)
        if config.ensemble:
            metrics["objective/ensemble_std"] = float(spread_B.mean())
            metrics["objective/scores_lower"] = float((scores_B - spread_B).mean())
        if self.watched_reward is not None:
            watched_B, _ = judged_together(EnsembleReward([self.watched_reward]).judge, rows, texts)
            metrics["watch/scores"] = float(watched_B.mean())
        metrics["objective/rlhf_reward"] = float(rewards_BT.sum(1).mean())
        metrics["objective/kl_coef"] = self.kl_coef
        metrics["critic/explained_variance"] = explained_variance(
            experience.old_values_BT, experience.returns_BT, experience.mask_BT
        )
        samples = [
            {"prompt": row.prompt, "response": text, "score": score}
            for (row, _), text, score in zip(chosen, texts, scores_B.tolist(), strict=True)
        ]
        return experience, metrics, samples

    def learn(self, experience: Experience, update: int) -> dict[str, float]:
        """Take ppo_epochs passes over a rollout in minibatches; return the means of what was watched."""
        history: list[dict[str, float]] = []
        for epoch in range(self.config.ppo_epochs):
            for rows in self._minibatches(len(experience.batch.tokens_BS), update, epoch):
                history.append(self.step(experience.select(rows), update, len(history)))
            if self.config.kl_stop and history[-1]["policy/approxkl_avg"] > self.config.kl_stop:
                break
        return {name: sum(entry[name] for entry in history) / len(history) for name in history[0]}

    def _minibatches(self, count: int, update: int, epoch: int) -> Iterator[list[int]]:
        order = torch.randperm(count, generator=self.generator(update * self.config.ppo_epochs + epoch, 2)).tolist()
        for start in range(0, count, self.config.minibatch):
            yield order[start : start + self.config.minibatch]

    def step(self, part: Experience, update: int, number: int) -> dict[str, float]:
        """Take an update's step `number` of policy and critic (arXiv:1707.06347, eq. 9); return what was watched.

        A critic of its own learns after the policy, so that one model's activations and gradients are held at a time.
        """
        config = self.config
        scale = schedule_scale(config, update, config.updates)
        warming = update < config.critic_warmup
        pieces = self._pieces(part)
        watched = dict.fromkeys((*POLICY_METRICS, VALUE_LOSS), 0.0)
        for piece, weight in pieces:
            self._descend(*self._policy_loss(piece, warming), weight, watched)
        if self.ptx and not warming:
            self._add_ptx(update, number)
        policy_norm = 0.0 if warming else self.policy_optimiser.step(scale)
        for piece, weight in [] if self.critic.shares_trunk else pieces:
            self._descend(*self._value_loss(piece, self.critic.values(piece.batch, None)), weight, watched)
        critic_norm = self.critic_optimiser.step(scale)
        sums = processes.total(list(watched.values()))
        return dict(zip(watched, sums, strict=True)) | {
            "critic/grad_norm": critic_norm, "policy/grad_norm": policy_norm,
        }  # fmt: skip

    def _pieces(self, part: Experience) -> list[tuple[Experience, float]]:
        """Return this process's share of a minibatch, a pass at a time.

        Each weighs by its tokens, so that gradients add up to those of the mean over the whole.
        """
        rows = processes.share(range(len(part.mask_BT)))
        lengths = part.batch.lengths_B[rows].tolist()
        pieces = [part.select([rows[place] for place in places]) for places in microbatches(self.config, lengths)]
        total = int(part.mask_BT.sum())
        return [(piece, int(piece.mask_BT.sum()) / total) for piece in pieces]

    def _descend(self, loss: Tensor, seen: dict[str, float], weight: float, watched: dict[str, float]) -> None:
        if loss.requires_grad:  # the policy's has none while only the critic learns
            (weight * loss).backward()  # type: ignore[no-untyped-call]
        self._collect()
        for name, value in seen.items():
            watched[name] += weight * value

    def _policy_loss(self, part: Experience, warming: bool) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the policy (unless only the critic learns) and of a critic on its trunk; what was seen."""
        config = self.config
        with torch.set_grad_enabled(not warming):
            states_BTH = response_states(self.policy, part.batch)
            logprobs_BT = state_logprobs(
                states_BTH,
                output_weight(self.policy),
                part.batch.response_tokens_BT,
                part.mask_BT,
                config.temperature,
                part.nucleus_BTV,
                Repetition.of(part.batch, config.repetition_penalty),
            )
        loss = clipped_policy_loss(logprobs_BT, part.old_logprobs_BT, part.advantages_BT, part.mask_BT, config.clip)
        seen = policy_metrics(logprobs_BT.detach(), part, loss, config.clip)
        if config.entropy_coef and not warming:
            entropy_BT = state_entropies(states_BTH, output_weight(self.policy), part.mask_BT, config.temperature)
            loss = loss - config.entropy_coef * masked_mean(entropy_BT, part.mask_BT)
        if self.critic.shares_trunk:
            value_loss, of_critic = self._value_loss(part, self.critic.values(part.batch, states_BTH))
            loss, seen = loss + config.value_coef * value_loss, seen | of_critic
        return loss, seen

    def _value_loss(self, part: Experience, values_BT: Tensor) -> tuple[Tensor, dict[str, float]]:
        loss = clipped_value_loss(values_BT, part.old_values_BT, part.returns_BT, part.mask_BT, self.config.value_clip)
        return loss, {VALUE_LOSS: float(loss.detach())}

    def _collect(self) -> None:
        self.critic_optimiser.collect()
        self.policy_optimiser.collect()

    def _add_ptx(self, update: int, number: int) -> None:
        """Add the gradient of the pretraining loss: what keeps the policy able to do what it could before.

        An update's shuffle is gone through step by step, from its beginning again where the rows are few.
        """
        order = torch.randperm(len(self.ptx), generator=self.generator(update, 3)).tolist()
        count = min(self.config.ptx_batch, len(order))
        whole = [self.ptx[order[(number * count + place) % len(order)]] for place in range(count)]
        for batch, weight in completion_passes(self.config, whole, self.tokenizer.pad_token_id):
            (self.config.ptx_coef * weight * completion_loss(self.policy, batch)).backward()  # type: ignore[no-untyped-call]
            self._collect()

    def look_out(self, update: int, metrics: dict[str, float]) -> dict[str, float]:
        """Show a rollout to the alarm, and keep the weights that sampled it where they are the ones to come back to."""
        signs = self.alarm.see(metrics)
        if self.config.alarm == "best" and self.alarm.at_best and not any(signs.values()):
            self.best = (update, self.policy_optimiser.weights())
        return {f"alarm/{name}": float(rings) for name, rings in signs.items()}

    def adapt_kl(self, kl: float) -> None:
        """Move the coefficient towards the KL target (arXiv:1909.08593, section 2.2), where there is one."""
        if self.config.kl_target:
            error = min(max(kl / self.config.kl_target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + 0.1 * error


def _joined(parts: list[Tensor], width: int, order_B: Tensor) -> Tensor:
    rows_BT = torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
    return processes.gather_rows(rows_BT[order_B])


def run(config: PPOConfig, output: OutputDirectory) -> None:
    """Train a policy.

    Raises:
        ConfigError, DataError: something named in the config cannot be used.
        Stopped: a signal came; the checkpoint is written.
    """
    prepare_process(config)
    ppo = PPO(config)
    first = 0
    if (found := output.load_checkpoint()) is not None:
        first, state = found
        ppo.load(state)
    with stop_requests() as stop:
        for update in range(first, config.updates):
            metrics = _update(ppo, update, output)
            output.log({"update": update + 1, "updates": config.updates, **metrics})
            rings = config.alarm != "note" and any(metrics.get(f"alarm/{name}") for name in SIGNS)
            last = update + 1 == config.updates or rings
            stopping = stop.heeded
            if stopping or (not last and (update + 1) % config.checkpoint_every == 0):
                output.save_checkpoint(update + 1, ppo.state())
            if stopping and not last:
                raise Stopped
            if rings:
                break
    ended = _end(ppo, output)
    if processes.is_first():
        save_model(ppo.policy, ppo.tokenizer, output.path)
        write_canary(output.path)
    others = [source for source, _ in config.weighted_rewards]
    rewards = [path for path in (config.reward, *config.ensemble, *others) if is_directory_reward(path)]
    parents = [config.policy, *rewards, *config.parents]
    output.finish(ended, data=[config.prompts, *filter(None, [config.ptx])], parents=parents)


def _end(ppo: PPO, output: OutputDirectory) -> dict[str, float]:
    """Put back the best weights where the alarm asks for it; return the stage's metrics."""
    metrics = processes.first_does(lambda: _last_line(output))
    rang = any(metrics.get(f"alarm/{name}") for name in SIGNS)
    if rang and ppo.best is not None:
        ppo.policy_optimiser.put_back(ppo.best[1])
        metrics["alarm/back_to_update"] = ppo.best[0]
    return metrics


def _update(ppo: PPO, update: int, output: OutputDirectory) -> dict[str, float]:
    began = time.perf_counter()
    experience, metrics, samples = ppo.roll_out(update)
    metrics |= ppo.look_out(update, metrics)
    rolled = time.perf_counter()
    metrics |= ppo.learn(experience, update)
    ppo.adapt_kl(metrics["objective/kl"])
    due = (update + 1) % ppo.config.samples_every == 0 or update + 1 == ppo.config.updates
    if due and processes.is_first():
        _write_samples(output.path / "samples" / f"{update + 1:06d}.jsonl", samples)
    ended = time.perf_counter()
    tokens = float(experience.batch.response_lengths_B.sum())
    return metrics | {
        "time/rollout_s": rolled - began,
        "time/update_s": ended - rolled,
        "throughput/response_tokens_per_s": tokens / (ended - began),
    }


def _write_samples(path: Path, samples: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8")


def _last_line(output: OutputDirectory) -> dict[str, float]:
    last: dict[str, float] = json.loads(output.progress.read_text(encoding="utf-8").splitlines()[-1])
    return last


__all__ = ["PPO", "Batch", "run"]
