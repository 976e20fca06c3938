"""`python -m training STAGE`: what it reads, what it leaves behind, and how it ends."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from training.__main__ import main
from training.config import load_config, to_toml
from training.models import load_causal, load_tokenizer, render_dialogue
from training.records import verify_manifest
from training.rewards import ModelReward

CODES = "tests.training.tiny:sum_codes"
PPO_METRICS = {
    "objective/kl", "objective/scores", "objective/rlhf_reward", "objective/entropy", "policy/approxkl_avg",
    "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg", "val/ratio", "response/length",
    "response/eos_fraction", "response/perplexity", "time/rollout_s", "time/update_s",
    "throughput/response_tokens_per_s",
}  # fmt: skip


def run_stage(stage: str, output: Path, settings: Mapping[str, object], *flags: str) -> int:
    """Run a stage in this process with every setting as an override."""
    sets = [f"--set={key}={value}" for key, value in ({"threads": 1} | dict(settings)).items()]
    return main([stage, "--output", str(output), *sets, *flags])


@pytest.fixture
def ppo(tiny: Path, prompts: str) -> dict[str, object]:
    """Return settings of a PPO run of two updates."""
    return {"policy": tiny, "prompts": prompts, "reward": CODES, "updates": 2, "rollout_batch": 4, "minibatch": 2,
            "response_length": 6, "lr": 1e-3}  # fmt: skip


@pytest.fixture
def reward(tiny: Path, preferences: str) -> dict[str, object]:
    """Return settings of a reward-model run of a few steps."""
    return {"model": tiny, "train": preferences, "epochs": 1, "batch": 6, "lr": 1e-3}


@pytest.fixture(scope="module")
def scorer(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reward stage's output directory, made once."""
    place = tmp_path_factory.mktemp("scorer")
    rows = place / "pairs.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"Say {i % 5}", "chosen": "aeiou", "rejected": "xyz"}) + "\n" for i in range(10))
    )
    assert run_stage("reward", place / "out", {"model": tiny, "train": rows, "epochs": 1, "lr": 1e-3}) == 0
    return place / "out"


def progress(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]


def test_the_help_names_the_server_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "serve --model DIR" in said
    assert "130 stopped" in said


def test_ppo_leaves_all_that_the_contract_names(ppo: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_stage("ppo", output, ppo) == 0
    manifest = verify_manifest(output)
    assert manifest["stage"] == "ppo"
    assert set(manifest["data_sha256"]) == {ppo["prompts"]}
    assert set(manifest["parents"]) == {str(ppo["policy"])}
    assert {"torch", "transformers"} <= set(manifest["versions"])
    # Every file but the manifest itself is in it, and it is the youngest.
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} - {"manifest.json"}
    files -= {name for name in files if name.startswith("tensorboard/")}  # written for a viewer, vouched for by nobody
    assert set(manifest["files"]) == files
    assert max(path.stat().st_mtime_ns for path in output.rglob("*")) == (output / "manifest.json").stat().st_mtime_ns
    assert {"config.toml", "progress.jsonl", "metrics.json", "canary.json", "model/model.safetensors"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert to_toml(load_config("ppo", (output / "config.toml").read_text())) == (output / "config.toml").read_text()
    lines = progress(output)
    assert [line["update"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) >= PPO_METRICS
        assert all(math.isfinite(value) for value in line.values())
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert set(json.loads((output / "metrics.json").read_text())) >= PPO_METRICS


def test_the_model_written_answers_as_the_canary_says(ppo: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_stage("ppo", output, ppo | {"lora_rank": 2}) == 0
    assert (output / "adapter" / "adapter_model.safetensors").is_file()
    canary = json.loads((output / "canary.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(output / "model", dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    for prompt in canary["prompts"]:
        tokens = tokenizer(prompt["inputs"], add_special_tokens=False, return_tensors="pt")["input_ids"]
        for token, logprob in zip(prompt["tokens"], prompt["logprobs"], strict=True):
            with torch.no_grad():
                logits = model(input_ids=tokens).logits[0, -1].float()
            assert float(logits.log_softmax(-1)[token]) == pytest.approx(logprob, abs=0.05)
            assert float(logits[token]) >= float(logits.max()) - 0.05
            tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)


def test_the_policy_learned_differs_from_the_one_it_began_as(ppo: dict[str, object], tiny: Path, tmp_path: Path
                                                             ) -> None:  # fmt: skip
    for name, settings in (("full", {"dtype": "float32"}), ("lora", {"lora_rank": 2, "dtype": "float32"})):
        assert run_stage("ppo", tmp_path / name, ppo | settings) == 0
        before = load_causal(str(tiny), torch.float32).state_dict()
        after = load_causal(str(tmp_path / name), torch.float32).state_dict()
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_reward_model_is_of_one_label_and_scores_as_it_was_measured(reward: dict[str, object], tmp_path: Path
                                                                      ) -> None:  # fmt: skip
    for name, settings in (("full", {}), ("lora", {"lora_rank": 2})):
        output = tmp_path / name
        assert run_stage("reward", output, reward | {"dtype": "float32"} | settings) == 0
        verify_manifest(output)
        model = AutoModelForSequenceClassification.from_pretrained(output / "model", dtype=torch.float32).eval()
        assert model.config.num_labels == 1
        tokenizer = load_tokenizer(str(output))
        dialogue = [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "aeiou"}]
        inputs = tokenizer(render_dialogue(tokenizer, dialogue), add_special_tokens=False, return_tensors="pt")  # type: ignore[arg-type]
        with torch.no_grad():
            theirs = float(model(**inputs).logits)
        assert theirs != 0
        ours = ModelReward(str(output), "float32", 4)([dialogue[:1]], ["aeiou"])  # type: ignore[list-item]
        assert ours == pytest.approx([theirs], abs=1e-5)
        metrics = json.loads((output / "metrics.json").read_text())
        assert 0 <= metrics["reward/accuracy_low"] <= metrics["reward/accuracy"] <= metrics["reward/accuracy_high"] <= 1
        assert metrics["n/train_pairs"] + metrics["n/validation_pairs"] == 40


def test_a_plain_preference_is_learned_from_prompts_held_out(reward: dict[str, object], tmp_path: Path) -> None:
    # Vowels against consonants: ten prompts of four pairs, one at least held out.
    assert run_stage("reward", tmp_path / "out", reward | {"epochs": 4, "lr": 5e-3}) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["reward/accuracy"] == 1.0
    assert metrics["loss/validation"] < 0.3


@pytest.mark.parametrize("critic", ["head", "separate"])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_ppo_learns_from_a_reward_directory(
    critic: str, lora_rank: int, scorer: Path, ppo: dict[str, object], tmp_path: Path
) -> None:
    settings = ppo | {"reward": scorer, "critic": critic, "lora_rank": lora_rank, "top_p": 0.9, "temperature": 0.8}
    assert run_stage("ppo", tmp_path / "out", settings) == 0
    assert all(line["policy/grad_norm"] > 0 for line in progress(tmp_path / "out"))
    assert set(verify_manifest(tmp_path / "out")["parents"]) == {str(ppo["policy"]), str(scorer)}


class _Scorer(BaseHTTPRequestHandler):
    bodies: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        rewards = {"rewards": [len(text) for text in body["responses"]]} if self.path == "/score" else {"scores": []}
        answer = json.dumps(rewards).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *ignored: object) -> None:
        pass


def test_ppo_learns_from_a_url(ppo: dict[str, object], tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scorer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/score"
        assert run_stage("ppo", tmp_path / "out", ppo | {"reward": url}) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert len(_Scorer.bodies) == 2  # one an update
    assert _Scorer.bodies[0]["prompts"][0][0]["role"] == "user"
    mean = sum(len(text) for text in _Scorer.bodies[1]["responses"]) / 4
    assert progress(tmp_path / "out")[1]["objective/scores"] == pytest.approx(mean)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 1}, "learning_rate: unknown key"),
        ({"policy": "/no/such/model"}, "policy: /no/such/model: no tokenizer can be loaded"),
        ({"reward": "/no/such/reward"}, "reward: /no/such/reward: no "),
        ({"reference": "/no/such/model"}, "reference: /no/such/model: no model can be loaded"),
        ({"reward": "no.such.module:f"}, "reward: no.such.module:f: No module named"),
        ({"reward": "tests.training.tiny:nothing"}, "reward: tests.training.tiny:nothing: "),
        ({"reward": "tests.training.tiny:END"}, "reward: tests.training.tiny:END: is not a function"),
        ({"reward": ":f"}, "reward: :f: "),
        ({"prompts": "/no/such/file"}, "/no/such/file: No such file"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_2_and_one_line_that_names_it(
    settings: dict[str, object], named: str, ppo: dict[str, object], tmp_path: Path, capsys: Any
) -> None:
    capsys.readouterr()
    assert run_stage("ppo", tmp_path / "out", ppo | settings) == 2
    assert error_of(capsys).startswith(named)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("tests.training.tiny:fail_for_one", "KeyError: 'no score"),
        ("tests.training.tiny:score_too_few", "4 numbers are needed"),
        ("tests.training.tiny:score_nothing", "score 0 is not a finite number: nan"),
        ("http://127.0.0.1:9/score", "ConnectError: "),
    ],
)
def test_a_reward_that_fails_as_it_runs_ends_with_1_and_one_line_and_is_gone_on_from(
    reward: str, said: str, ppo: dict[str, object], tmp_path: Path, capsys: Any, write_rows: Any
) -> None:
    settings = ppo | {"prompts": write_rows("one.jsonl", [{"prompt": "Say 8"}])}
    capsys.readouterr()
    assert run_stage("ppo", tmp_path / "out", settings | {"reward": reward}) == 1
    line = error_of(capsys)
    assert line.startswith(f"reward: {reward}: {said}")
    assert "fail_for_one" not in reward or "tiny.py:" in line
    assert run_stage("ppo", tmp_path / "out", settings, "--resume") == 0


@pytest.mark.parametrize(("stage", "key"), [("ppo", "prompts"), ("reward", "train"), ("sft", "train")])
def test_a_bad_line_ends_with_2_and_names_file_and_line(
    stage: str, key: str, ppo: dict[str, object], tiny: Path, tmp_path: Path, capsys: Any
) -> None:
    bad = tmp_path / "bad.jsonl"
    good = {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}
    bad.write_text(json.dumps(good) + "\n" + '{"prompt": 3}\n')
    settings = ppo if stage == "ppo" else {"model": tiny}
    capsys.readouterr()
    assert run_stage(stage, tmp_path / "out", settings | {key: bad}) == 2
    assert error_of(capsys).startswith(f"{bad}:2: ")


def test_a_directory_with_something_in_it_is_not_written_over(ppo: dict[str, object], tmp_path: Path, capsys: Any
                                                              ) -> None:  # fmt: skip
    (tmp_path / "mine.txt").write_text("x")
    assert run_stage("ppo", tmp_path, ppo) == 2
    assert error_of(capsys) == f"{tmp_path}: is not empty; --resume goes on with it"
    assert run_stage("ppo", tmp_path / "mine.txt", ppo) == 2
    assert error_of(capsys) == f"{tmp_path / 'mine.txt'}: is not a directory"


def test_resuming_what_is_done_changes_nothing_and_is_no_error(ppo: dict[str, object], tmp_path: Path) -> None:
    assert run_stage("ppo", tmp_path / "out", ppo) == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert run_stage("ppo", tmp_path / "out", ppo, "--resume") == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_what_a_kill_left_half_written_is_not_in_the_manifest(ppo: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "checkpoints").mkdir(parents=True)
    (output / ".manifest.json.new").write_text("{")
    (output / "checkpoints" / "00000001.new").write_text("half")
    assert run_stage("ppo", output, ppo, "--resume") == 0
    assert not [name for name in verify_manifest(output)["files"] if name.endswith(".new")]


def test_a_config_that_is_not_there_or_not_text_ends_with_2(tmp_path: Path, capsys: Any) -> None:
    assert main(["ppo", "--config", "/no/such.toml", "--output", str(tmp_path / "out")]) == 2
    assert error_of(capsys) == "--config /no/such.toml: No such file or directory"
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert main(["ppo", "--config", str(tmp_path / "binary.toml"), "--output", str(tmp_path / "out")]) == 2
    assert "not UTF-8" in error_of(capsys)


def test_a_seed_gives_the_same_run_again_and_another_seed_another(ppo: dict[str, object], tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert run_stage("ppo", tmp_path / name, ppo | {"seed": seed}) == 0
        weights.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_sft_learns_completions_and_generate_says_them(tiny: Path, write_rows: Any, tmp_path: Path) -> None:
    rows = write_rows("sft.jsonl", [{"prompt": f"Say {i}", "completion": "oo"} for i in range(8)])
    settings = {"model": tiny, "train": rows, "validation": rows, "epochs": 40, "batch": 8, "lr": 1e-2,
                "dtype": "float32"}  # fmt: skip
    assert run_stage("sft", tmp_path / "sft", settings) == 0
    lines = progress(tmp_path / "sft")
    assert lines[-1]["loss/train"] < 0.1 < lines[0]["loss/train"]
    assert lines[-1]["loss/validation"] == pytest.approx(
        json.loads((tmp_path / "sft" / "metrics.json").read_text())["loss/validation"]
    )
    ask = write_rows("ask.jsonl", [{"prompt": "Say 3", "id": "q"}, {"prompt": "Say 5"}])
    asked = {"model": tmp_path / "sft", "prompts": ask, "responses_per_prompt": 2, "temperature": 0.1, "batch": 3}
    assert run_stage("generate", tmp_path / "said", asked) == 0
    said = [json.loads(line) for line in (tmp_path / "said" / "completions.jsonl").read_text().splitlines()]
    assert [(row["id"], row["index"]) for row in said] == [("q", 0), ("q", 1), ("2", 0), ("2", 1)]
    assert {row["completion"][0]["content"] for row in said} == {"oo"}
    assert {row["finish_reason"] for row in said} == {"stop"}


def test_evaluate_compares_a_policy_with_itself_as_even_and_with_another_as_measured(
    ppo: dict[str, object], scorer: Path, tiny: Path, preferences: str, tmp_path: Path
) -> None:
    assert run_stage("ppo", tmp_path / "ppo", ppo | {"updates": 4, "lr": 1e-2}) == 0
    settings = {
        "policy": tmp_path / "ppo", "parent": tmp_path / "ppo" / "model", "base": tiny, "prompts": ppo["prompts"],
        "reward": CODES, "reward_under_test": scorer, "preferences": preferences, "response_length": 6,
        "dtype": "float32", "skill_items": 2,
    }  # fmt: skip
    assert run_stage("evaluate", tmp_path / "out", settings) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["win_rate/parent"], metrics["kl/parent"]) == (0.5, 0.0)  # the same model by another path
    assert metrics["perplexity/parent"] == metrics["perplexity/policy"] != metrics["perplexity/base"]
    assert metrics["kl/base"] > 0
    assert metrics["win_rate/base_low"] <= metrics["win_rate/base"] <= metrics["win_rate/base_high"]
    assert metrics["reward_under_test/accuracy"] > 0.5  # the reward model learned vowels
    assert metrics["n/pairs"] == 40
    # The same model has lost nothing; another one scores the replies otherwise.
    assert (
        metrics["skills/dialogue_logprob_change_parent_high"] == 0.0 != metrics["skills/dialogue_logprob_change_base"]
    )
    skills = [json.loads(line) for line in (tmp_path / "out" / "skills.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in skills] == ["qa"] * 2 + ["summary"] * 2 + ["dialogue"] * 2
    assert skills[0]["policy"]["scores"] == skills[0]["parent"]["scores"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 10
    # What a blind comparison asks of an answer: whose prompt, by which seed, and whether it ended or was cut at 6.
    assert len({s["seed"] for s in samples}) == len({s["id"] for s in samples}) == 10
    assert all(s["ended_base"] or s["tokens_base"] == 6 for s in samples)
    wins = [0.5 if s["score_policy"] == s["score_base"] else float(s["score_policy"] > s["score_base"])
            for s in samples]  # fmt: skip
    assert metrics["win_rate/base"] == pytest.approx(sum(wins) / len(wins))


def test_a_pipe_will_do_for_the_config_and_sigterm_ends_with_130_resumable(
    ppo: dict[str, object], tmp_path: Path
) -> None:
    settings = {**ppo, "updates": 100000, "threads": 1}
    text = "".join(f"{key} = {value if isinstance(value, int | float) else json.dumps(str(value))}\n"
                   for key, value in settings.items())  # fmt: skip
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    output = tmp_path / "out"
    command = [sys.executable, "-m", "training", "ppo", "--config", f"/dev/fd/{reader}", "--output", str(output)]
    process = subprocess.Popen(command, pass_fds=[reader], stderr=subprocess.PIPE, text=True)
    os.close(reader)
    deadline = time.monotonic() + 120
    while not (output / "progress.jsonl").exists() or len(progress_or_none(output)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == f"{output}: stopped; --resume goes on\n"  # and nothing of any library
    done = len(progress(output))
    assert [path.name for path in (output / "checkpoints").glob("*.pt")][-1:] != []
    assert not (output / "manifest.json").exists()
    more = {**ppo, "updates": done + 1}
    assert run_stage("ppo", output, more, "--resume") == 0
    assert [line["update"] for line in progress(output)] == list(range(1, done + 2))


def progress_or_none(output: Path) -> list[str]:
    return (output / "progress.jsonl").read_text().splitlines()
