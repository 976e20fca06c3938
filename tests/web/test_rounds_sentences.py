"""What a worker found is read in the reader's language, long after the worker said it in English."""

import json

import pytest
from django.utils import translation

from feedback_app.rounds.models import Round
from feedback_app.rounds.recipes import Gate
from feedback_app.rounds.reports import gate_rows
from feedback_app.rounds.standing import standing_of
from feedback_app.rounds.steps.gate import judge_evaluation
from feedback_app.sentences import say_sentence
from tests.factories import make_project
from tests.web.round_rows import round_at

MEASURED = {
    "win_rate/parent": 0.4, "win_rate/parent_low": 0.32, "win_rate/parent_high": 0.48, "response/length": 40.0,
    "response/length_parent": 50.0, "perplexity/policy": 22.0, "perplexity/base": 20.0, "skills/qa_f1": 0.3,
    "skills/qa_f1_parent": 0.3, "skills/qa_f1_change_parent": 0.0, "skills/qa_f1_change_parent_low": -0.1,
    "skills/qa_f1_change_parent_high": 0.1,
}  # fmt: skip


def rejected() -> Round:
    """A round as the database gives it back; the KL was not measured, and 48 % do not reach 50 %."""
    checks = json.loads(json.dumps(judge_evaluation(MEASURED, Gate())))
    error = "; ".join(f"{check['name']}: {check['said']}" for check in checks if not check["passed"])
    return Round(state=Round.State.REJECTED, error=error, gate={"checks": checks})


def test_a_gates_reasons_are_read_in_the_readers_language() -> None:
    english = {row["said"] for row in gate_rows(rejected())}
    assert english == {check["said"] for check in rejected().gate["checks"]}
    with translation.override("zh-hans"):
        said = [row["said"] for row in gate_rows(rejected())]
    assert said[0] == "40%（95 % 区间 32% 至 48%）；区间上限须达到 50%"
    assert said[1] == "未测量：kl/parent"


def test_a_rejected_round_says_why_in_the_readers_language() -> None:
    with translation.override("zh-hans"):
        text = standing_of(rejected()).text
        by_a_person = standing_of(Round(state=Round.State.REJECTED, error="rejected by a person")).text
        own_words = standing_of(Round(state=Round.State.REJECTED, error="Too wordy.")).text
    assert "未测量：kl/parent" in text
    assert "interval" not in text
    assert "被人拒绝" in by_a_person
    assert "Too wordy" in own_words


@pytest.mark.django_db
def test_a_full_disk_is_said_with_what_to_do() -> None:
    failed = round_at(make_project(), "failed", "ppo", error="ppo ended with exit code 1: no log")
    assert "make room" not in standing_of(failed).text
    failed.error = "ppo ended with exit code 1: OSError: [Errno 28] No space left on device"
    assert "make room" in standing_of(failed).text


def test_a_sentence_kept_before_its_parts_were_is_said_as_it_was() -> None:
    assert say_sentence({"name": "KL", "said": "50% of it"}) == "50% of it"
