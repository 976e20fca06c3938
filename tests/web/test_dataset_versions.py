"""A dataset version is frozen: equal rows give an equal hash, each split its own file, and nothing changes after."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.exceptions import ValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from feedback_app.annotation.models import Judgment
from feedback_app.annotation.services import void_judgments
from feedback_app.annotation.splits import hash_root, split_of
from feedback_app.datasets.exporting.options import CHOICES
from feedback_app.datasets.formats.exports import EXPORT_FORMATS
from feedback_app.datasets.services import (
    create_dataset_version,
    folder_of,
    mark_versions_of_voided,
    split_files,
    verify_dataset,
    versions,
)
from feedback_app.datasets.services.cards import write_card
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import Project
from tests.factories import make_project
from tests.web.judged import RANKINGS, judged_rows, run_rows

pytestmark = pytest.mark.django_db


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_split_has_a_file_of_its_own_and_the_manifest_counts_them() -> None:
    project = make_project()
    run_rows(project, judged_rows(40))
    version = create_dataset_version(project=project, format="preference", options={})
    files = split_files(version)
    assert list(files) == ["train", "validation", "test"]
    for split, path in files.items():
        rows = rows_of(path)
        assert version.manifest["rows"][split] == len(rows)
        assert {split_of(hash_root(row["prompt"])) for row in rows} == {split}
        assert version.manifest["prompts"][split] == len({row["prompt_id"] for row in rows})
    assert version.manifest["annotators"] == 3
    assert version.manifest["policies"] == {"bloom": version.manifest["tasks"], "llama": version.manifest["tasks"]}
    assert version.manifest["protocol_versions"] == [1]
    assert json.loads((folder_of(version) / "manifest.json").read_text()) == version.manifest


def test_equal_judgments_give_equal_versions_and_one_more_another() -> None:
    project = make_project()
    run_rows(project, judged_rows(20))
    first, second = (create_dataset_version(project=project, format="preference", options={}) for _ in range(2))
    assert (first.number, second.number) == (1, 2)
    assert first.content_sha256 == second.content_sha256
    assert first.directory != second.directory
    run_rows(project, judged_rows(21))
    third = create_dataset_version(project=project, format="preference", options={})
    assert third.content_sha256 != first.content_sha256
    verify_dataset(first)


def test_a_changed_file_is_found_out() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    version = create_dataset_version(project=project, format="preference", options={"split": "train"})
    path = split_files(version)["train"]
    assert path.stat().st_mode & 0o222 == 0  # nobody writes it by accident
    path.chmod(0o644)
    path.write_text(path.read_text().replace("Yes", "Yep"))
    with pytest.raises(ValidationError, match=r"train\.jsonl is missing or was changed"):
        verify_dataset(version)


def test_a_version_of_nothing_is_refused_and_leaves_no_folder() -> None:
    project = make_project()
    run_rows(project, judged_rows(3))
    Judgment.objects.all().delete()
    home = folder_of_datasets()
    before = sorted(home.iterdir()) if home.exists() else []
    with pytest.raises(ValidationError, match="no judgment"):
        create_dataset_version(project=project, format="preference", options={})
    assert sorted(home.iterdir()) == before


def folder_of_datasets() -> Path:
    from django.conf import settings as django_settings

    return Path(django_settings.DATA_DIR) / "datasets"


def test_a_version_that_holds_a_voided_judgment_is_marked_and_others_are_not() -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    whole = create_dataset_version(project=project, format="preference", options={})
    part = create_dataset_version(project=project, format="preference", options={"annotators": ["annotator1"]})
    assert mark_versions_of_voided() == 0
    # No verdict of the second annotator is in the part.
    ids = list(Judgment.objects.filter(annotator__display_name="annotator2").values_list("pk", flat=True))[:2]
    void_judgments(project=project, voided_by=None, reason="asleep", judgments=ids)
    assert mark_versions_of_voided() == 1
    whole.refresh_from_db()
    part.refresh_from_db()
    assert whole.tainted_at is not None
    assert whole.taint_reason == "2 of its judgments were voided since"
    assert part.tainted_at is None
    assert mark_versions_of_voided() == 0  # marked once
    verify_dataset(whole)  # and left as it was


def test_what_is_voided_while_a_version_is_made_is_not_in_it_or_it_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project()
    run_rows(project, judged_rows(10))
    ids = list(Judgment.objects.order_by("pk").values_list("pk", flat=True))
    write = versions._write_files
    made: list[int] = []

    def write_then_void(*given: Any) -> Any:
        tally = write(*given)
        if len(made) < most:
            void_judgments(project=project, voided_by=None, reason="asleep", judgments=[ids.pop()])
            made.append(tally.judgments)
        return tally

    monkeypatch.setattr(versions, "_write_files", write_then_void)
    most = 1
    version = create_dataset_version(project=project, format="judgments", options={})
    assert (made, version.manifest["judgments"]) == ([30], 29)
    # Voided again and again, it is stored in the end, with one that was void before it was stored: so it is marked.
    made.clear()
    most = 100
    version = create_dataset_version(project=project, format="judgments", options={})
    assert (made, version.manifest["judgments"]) == ([29, 28, 27], 27)
    assert mark_versions_of_voided() == 2
    version.refresh_from_db()
    assert version.taint_reason == "1 of its judgments were voided since"


HOSTILE = "evil\n\n# Heading\u2028<img src=x onerror=alert(1)> `x` ![i](https://x.test/i) [l](https://x.test) **b**"


def test_what_strangers_named_is_shown_in_the_card_and_does_nothing() -> None:
    project = make_project()
    rows = judged_rows(10)
    for row in rows:
        row["responses"][0]["model"] = HOSTILE
    run_rows(project, rows)
    run_rows(project, [judged_rows(11)[10] | {"language": "no"}])
    options = {"annotators": ["annotator1", f"{HOSTILE} ``x`"]}
    version = create_dataset_version(project=project, format="judgments", options=options)
    front, card = (folder_of(version) / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    for html in (MarkdownIt("commonmark").enable("table").render(card), str(render_markdown(card))):
        assert not set(re.findall(r"<(\w+)", html)) & {"a", "img", "strong", "em", "h2"}
        assert len(re.findall("<h[1-6]", html)) == 1
        assert unescape(html).count(HOSTILE.replace("\n\n", " ").replace("\u2028", " ") + " (10 tasks)") == 1
        assert "``x`" in unescape(html)
    assert yaml.safe_load(front)["language"] == ["en", "no"]


def test_the_card_tells_a_reader_of_data_files_where_each_split_is() -> None:
    project = make_project()
    run_rows(project, judged_rows(40))
    version = create_dataset_version(project=project, format="preference", options={"margin": "large"})
    _, front, body = (folder_of(version) / "README.md").read_text().split("---\n", 2)
    (config,) = yaml.safe_load(front)["configs"]
    listed = {item["split"]: item["path"] for item in config["data_files"]}
    assert listed == {split: path.name for split, path in split_files(version).items()}
    assert f"| train | {version.manifest['rows']['train']} |" in body
    assert "under protocol version 1, no guidelines" in body or "guidelines version 1" in body
    version.refresh_from_db()  # PostgreSQL keeps JSON in an order of its own
    assert write_card(version.manifest) == f"---\n{front}---\n{body}"
    assert '"margin": "large"' in body


def test_parquet_versions_hold_the_same_rows() -> None:
    import pyarrow.parquet

    project = make_project()
    run_rows(project, judged_rows(20))
    lines = split_files(create_dataset_version(project=project, format="preference", options={}))
    typed = split_files(create_dataset_version(project=project, format="preference", options={}, file_type="parquet"))
    for split, path in typed.items():
        assert pyarrow.parquet.read_table(path).to_pylist() == rows_of(lines[split])


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(CHOICES[name])
        for name in ("combine", "pairs", "margin", "ties", "all_bad", "split", "simulated")
    },
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(format=st.sampled_from(sorted(EXPORT_FORMATS)), options=OPTIONS, count=st.integers(1, 12))
def test_equal_inputs_give_equal_versions_by_whatever_rules(format: str, options: dict[str, Any], count: int) -> None:
    project = make_project()
    run_rows(project, judged_rows(count))
    try:
        first = create_dataset_version(project=project, format=format, options=options)
    except ValidationError:
        return  # nothing in it
    run_rows(project, judged_rows(count))  # brings nothing new
    second = create_dataset_version(project=project, format=format, options=first.options)
    assert (first.content_sha256, first.options) == (second.content_sha256, second.options)
    left, right = ({k: v for k, v in version.manifest.items() if k != "number"} for version in (first, second))
    assert left == right


PROMPTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12), min_size=1, max_size=12, unique=True
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, verdicts=st.lists(st.sampled_from([0, 1, 2]), min_size=12, max_size=12))
def test_no_example_stands_on_two_sides(prompts: list[str], verdicts: list[int]) -> None:
    project: Project = make_project()
    rows = [
        {
            # The same root as plain text and as a longer conversation: both belong on one side.
            "prompt": prompt if number % 2 else [{"role": "user", "content": prompt}, *more],
            "responses": [{"text": f"{number} a"}, {"text": f"{number} b"}],
            "judgments": [{"annotator": "a", "ranking": RANKINGS[verdict]}],
        }
        for number, (prompt, verdict) in enumerate(zip(prompts * 2, verdicts * 2, strict=False))
        for more in [[{"role": "assistant", "content": "?"}, {"role": "user", "content": "!"}] if number % 3 else []]
    ]
    job = run_rows(project, rows)
    assert job.rows_refused == 0
    if set(verdicts[: len(prompts)]) == {0}:
        return
    version = create_dataset_version(project=project, format="preference", options={"ties": "both"})
    sides: dict[str, set[str]] = {}
    for split, path in split_files(version).items():
        for row in rows_of(path):
            sides.setdefault(hash_root(row["prompt"]), set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    assert sum(version.manifest["rows"].values()) == sum(2 if v == 0 else 1 for v in (verdicts * 2)[: len(rows)])
