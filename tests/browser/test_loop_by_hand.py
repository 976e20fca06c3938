"""The loop as one person goes it, in a real browser on the whole stack: sign in, judge by keys, start, see it live."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import LAPTOP, PASSWORD
from tests.browser.judging import press, prompt, wait_for_next
from tests.loop.stack import Stack, run_stack, wait_until
from tests.loop.taste import share_of_small
from tests.loop.tiny_policy import make_prompts, make_tiny_policy

# The judging page holds two tasks ahead; a few more are sampled than judged.
JUDGED, SIMULATED, SAMPLED = 12, 60, 76
# A tiny model at a high rate: it learns something in seconds. What its perplexity does on English is of no matter.
RECIPE = """
[reward]
epochs = 4
batch = 8
lr = 2e-3
max_length = 128
[ppo]
updates = 12
rollout_batch = 32
minibatch = 16
response_length = 24
lr = 2e-3
critic = "head"
samples_every = 4
[evaluate]
response_length = 24
max_prompts = 16
[gate]
win_rate_over_parent = 0.0
max_perplexity_ratio = 0.0
"""


@pytest.mark.loop
@pytest.mark.timeout(900)
def test_one_person_signs_in_judges_by_keys_starts_a_round_and_sees_it_go_live(
    browser: Browser, tmp_path: Path
) -> None:
    with run_stack(lambda path: make_tiny_policy(path, seed=5)) as stack:
        _make_project(stack, tmp_path)
        context = browser.new_context(base_url=stack.url, viewport=LAPTOP, reduced_motion="reduce")
        context.set_default_timeout(20_000)
        page = context.new_page()
        thrown: list[str] = []
        page.on("pageerror", lambda error: thrown.append(str(error)))
        _sign_in_by_keys(page)
        _sample(page, SAMPLED)
        _judge_by_keys(page, JUDGED)
        _simulate(page, SIMULATED)
        _start_and_watch(page)
        _see_it_live(page, stack)
        assert thrown == []
        context.close()


def _make_project(stack: Stack, tmp_path: Path) -> None:
    stack.manage("create_project", "letters", "--protocol", "pairwise", "--overlap", "1", "--max-new-tokens", "24")
    token = stack.manage("create_user", "boss", "--project", "letters", "--role", "manager", "--password", PASSWORD)
    with stack.client(token) as client:
        rows = [{"prompt": text} for text in make_prompts(120)]
        job = client.post("/projects/letters/imports/", params={"format": "prompts"}, json=rows).raise_for_status()
        address = f"/imports/{job.json()['id']}/"
        wait_until(lambda: client.get(address).json()["state"] == "done", 60, "the prompts are imported")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    stack.manage("set_recipe", "letters", str(recipe))


def _sign_in_by_keys(page: Page) -> None:
    page.goto("/p/letters/")
    page.get_by_label("User name").focus()
    page.keyboard.type("boss")
    press(page, "Tab")
    page.keyboard.type(PASSWORD)
    press(page, "Enter")
    expect(page.get_by_role("heading", name="Are we collecting?")).to_be_visible()


def _sample(page: Page, prompts: int) -> None:
    page.locator("summary", has_text="Sample").click()
    page.get_by_label("Prompts to sample").fill(str(prompts))
    page.get_by_role("button", name="Sample now").click()

    def sampled() -> bool:
        page.goto("/p/letters/")
        return page.get_by_role("link", name=f"{prompts} tasks", exact=True).count() == 1

    wait_until(sampled, 120, "the tasks are sampled")


def _judge_by_keys(page: Page, count: int) -> None:
    """Prefer small letters, by the digits and Enter alone."""
    page.goto("/p/letters/judge/")
    page.wait_for_selector("#main:not([data-state='loading'])")
    for number in range(count):
        before = prompt(page)
        texts = page.locator("[data-response] .response__text").all_inner_texts()
        assert len(texts) == 2
        first, second = map(share_of_small, texts)
        press(page, "Digit1" if first >= second else "Digit2", "Enter")
        expect(page.locator("#today")).to_have_text(f"{number + 1} today")
        wait_for_next(page, before)


def _simulate(page: Page, count: int) -> None:
    page.goto("/p/letters/")
    page.locator("summary", has_text="Simulate").click()
    page.get_by_label("Judgments", exact=True).fill(str(count))
    page.get_by_role("button", name="Let them judge").click()
    expect(page.get_by_text(f"The last simulation made {count} of {count} judgments")).to_be_visible(timeout=90_000)


def _start_and_watch(page: Page) -> None:
    page.locator("summary", has_text="Start a round").click()
    page.get_by_label("Learn from simulated judgments too").check()
    page.get_by_role("button", name="Start it").click()
    expect(page.get_by_role("heading", name="Round 1")).to_be_visible()
    # Without a reload of ours: curves come, steps pass, and the page says how it ended.
    expect(page.locator("#chart-reward_loss canvas")).to_be_visible(timeout=120_000)
    expect(page.locator("#chart-kl canvas")).to_be_visible(timeout=180_000)
    ended = page.get_by_text(re.compile("which went live|failed:|Not gone live"))
    expect(ended).to_be_visible(timeout=240_000)
    expect(ended).to_contain_text("Finished: it made letters-v1, which went live.")


def _see_it_live(page: Page, stack: Stack) -> None:
    page.get_by_role("link", name="See the policy").click()
    expect(page.get_by_role("heading", name="letters-v1")).to_be_visible()
    expect(page.locator(".page__head .tag")).to_have_text("live")
    page.goto("/p/letters/policies/")
    expect(page.get_by_text("it has the live version")).to_be_visible()
    # Read back from the server, not taken from the page.
    assert stack.info()["policy_version"] == "letters-v1"
