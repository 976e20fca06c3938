"""The bar of the first start: what it says follows from what has landed and from how long that took here."""

import sys
import threading
import time
from pathlib import Path

import pytest

from feedback_app.embedded.base_model import conversion_share
from feedback_app.embedded.children import Child
from feedback_app.embedded.installing import COMPILED_MODULE_BYTES, Interrupted, Landing, is_installed, run_watched
from feedback_app.embedded.preparation import Estimate, Preparation, Step
from feedback_app.embedded.status import read_status


def test_nothing_is_promised_before_anything_is_measured() -> None:
    estimate = Estimate([10, 30])
    assert estimate.at(0.0, 60.0) == (0.0, None)
    assert estimate.at(0.02, 60.0)[1] is None  # too little done to tell
    assert estimate.at(0.5, 1.0)[1] is None  # too little time gone to tell


def test_seconds_left_follow_from_the_pace_of_this_machine() -> None:
    estimate = Estimate([10, 30])
    # Half of the first step took 10 s: 10 more for it, 20 in all for a weight of 10, so 60 for the weight of 30.
    assert estimate.at(0.5, 10.0) == (0.125, 70)
    # 4 s later nothing more is heard: the rest shrinks with the clock.
    assert estimate.at(0.5, 14.0) == (0.125, 66)
    estimate.finish(20.0)
    # A step of which nothing is known yet is expected to go at the pace of those before it: 60 s.
    assert estimate.at(0.0, 6.0) == (0.25, 54)
    # It goes twice as fast: 15 of 30 s are left.
    assert estimate.at(0.5, 15.0) == (0.625, 15)


def test_a_step_that_takes_longer_than_it_looked_promises_nothing() -> None:
    estimate = Estimate([10])
    assert estimate.at(0.9, 9.0)[1] == 1
    assert estimate.at(0.9, 11.0)[1] is None


def test_a_share_never_goes_back() -> None:
    estimate = Estimate([10])
    assert estimate.at(0.6, 6.0)[0] == 0.6
    assert estimate.at(0.4, 7.0)[0] == 0.6
    assert estimate.at(None, 8.0)[0] == 0.6


def test_how_far_pip_is_follows_from_what_it_has_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    site, temporary = tmp_path / "site", tmp_path / "tmp"
    for folder in (site / "before", temporary):
        folder.mkdir(parents=True)
    landing = Landing(site, temporary, download=1000, size=4 * COMPILED_MODULE_BYTES)
    (site / "before" / "old.bin").write_bytes(b"x" * 10**6)  # not of this installation
    now[0] += 10
    assert landing.share() is None
    (temporary / "wheel").write_bytes(b"x" * 500)
    now[0] += 10
    # Half fetched after 20 s makes 40, and unpacking 2 million at 150 million a second is nothing beside it.
    assert landing.share() == pytest.approx(0.5, abs=0.001)
    (site / "fresh").mkdir()
    for number in range(2):
        (site / "fresh" / f"module{number}.pyc").touch()
    now[0] += 10
    # Since 20 s, when nothing was unpacked yet, half has been in 10 s: 40 s in all.
    assert landing.share() == pytest.approx(30 / 40)
    for number in range(9):
        (site / "fresh" / f"more{number}.pyc").touch()
    now[0] += 10
    assert landing.share() is None  # more than was foreseen: nobody knows


def test_a_conversion_is_as_far_as_its_last_finished_part() -> None:
    assert conversion_share("") == 0
    assert (
        conversion_share("10% torch is loaded\nLoading weights: 100%|###| 272/272\n25% the tokenizer is read\n") == 0.25
    )


def test_a_package_is_installed_when_it_is_whole_and_its_version_will_do() -> None:
    assert is_installed("django>=5")
    assert not is_installed("django<2")
    assert not is_installed("no-such-package-of-ours")


def test_what_runs_is_stopped_with_the_rest(tmp_path: Path) -> None:
    stopping = threading.Event()
    child = Child("pip", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(Interrupted):
        run_watched(child, stopping, lambda: None)
    assert child.process is None


def test_what_fails_is_said_by_its_error_line(tmp_path: Path) -> None:
    words = (
        "print('Collecting'); print('ERROR: No space left on device'); print('notice: a new pip'); raise SystemExit(1)"
    )
    child = Child("pip", [sys.executable, "-c", words], tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"^ERROR: No space left on device"):
        run_watched(child, threading.Event(), lambda: None)


def test_steps_are_done_in_order_and_the_first_error_stays_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fail(tell: object) -> None:
        raise RuntimeError("no space")

    steps = [
        Step("one", 1, lambda: True, lambda tell: done.append("one")),
        Step("not needed", 1, lambda: False, lambda tell: done.append("not needed")),
        Step("two", 1, lambda: True, fail),
        Step("three", 1, lambda: True, lambda tell: done.append("three")),
    ]
    monkeypatch.setattr("feedback_app.embedded.preparation.steps", lambda data_dir, stopping: steps)
    preparation = Preparation(tmp_path)
    preparation.start()
    preparation.join(10)
    assert done == ["one"]
    assert not preparation.done.is_set()
    status = read_status(tmp_path)
    assert (status.step, status.error, status.ready) == ("two", "no space", False)


def test_a_preparation_is_stopped_within_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation = Preparation(tmp_path)

    def sleep(tell: object) -> None:
        child = Child("pip", [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
        run_watched(child, preparation.stopping, lambda: None)

    steps = [Step("sleep", 1, lambda: True, sleep)]
    monkeypatch.setattr("feedback_app.embedded.preparation.steps", lambda data_dir, stopping: steps)
    preparation.start()
    time.sleep(0.3)
    began = time.monotonic()
    preparation.stop()
    assert time.monotonic() - began < 5
    assert not preparation.is_alive()
    assert not preparation.done.is_set()
