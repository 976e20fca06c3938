"""Whether the trainers that our exports are made for take them as they come: TRL's, one step each, and load_dataset.

    python -m venv /tmp/trainers && /tmp/trainers/bin/pip install torch==2.13.0 trl datasets transformers
    python benchmarks/trainers_take_it.py --trainers /tmp/trainers/bin/python

It imports made-up judgments into a project of its own, exports every format to every file type and freezes a dataset
version, then lets the other environment's Python read and train on them with a model of a few thousand weights. Prints
one JSON object; nothing is changed between the export and the trainer. The project is removed again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROWS = 60
PROTOCOL = {
    "name": "everything", "ranking": "required", "max_responses": 2, "strength": "optional", "rewrites": True,
    "attributes": [{"key": "helpfulness", "minimum": 0, "maximum": 4}],
}  # fmt: skip


def judged(number: int) -> dict[str, Any]:
    """Return a judged row; every third prompt is a longer conversation, in Chinese."""
    prompt: Any = f"What is {number} and one?"
    if number % 3 == 0:
        prompt = [
            {"role": "user", "content": f"{number} 加一是多少？"},
            {"role": "assistant", "content": "请再说一遍。"},
            {"role": "user", "content": "加一。"},
        ]
    better = number % 2
    return {
        "prompt": prompt,
        "responses": [{"text": f"It is {number + 1}.", "model": "m0"}, {"text": "=I do not know", "model": "m1"}],
        "judgments": [
            {
                "annotator": "a",
                "ranking": [[better], [1 - better]],
                "strength": 1 + number % 3,
                "ratings": {"0": {"helpfulness": number % 5}, "1": {"helpfulness": 1}},
                "rewrites": {"1": f"It is {number + 1}, surely."},
            }
        ],
    }


def export_all(folder: Path) -> dict[str, Any]:
    """Write every format in every file type, and a dataset version in both; return the rows of each."""
    from feedback_app.datasets.exporting.options import parse_options
    from feedback_app.datasets.exporting.rows import prepare_export
    from feedback_app.datasets.exporting.writing import FILE_TYPES, write_pieces
    from feedback_app.datasets.formats.exports import EXPORT_FORMATS
    from feedback_app.datasets.services import as_zip, create_dataset_version, rows_as_file, run_import, start_import
    from feedback_app.projects.services import create_project

    project = create_project(slug=f"bench-{os.getpid()}-trainers", protocol=PROTOCOL)
    content = rows_as_file(map(judged, range(ROWS)))
    job = start_import(project=project, format="judged", file_name="x.jsonl", content=content, requested_by=None)
    done = run_import(job_id=job.pk)
    if done is None or done.rows_new != ROWS:
        raise RuntimeError("the made-up judgments did not come in")
    counts: dict[str, Any] = {}
    for format, kind in EXPORT_FORMATS.items():
        for file_type in FILE_TYPES:
            export = prepare_export(project=project, format=format, options=parse_options({}))
            lines = [line for _split, line in export.lines()]
            pieces = write_pieces(lines, file_type=file_type, schema=export.schema, as_text=kind.as_text)
            (folder / f"{format}.{file_type}").write_bytes(b"".join(pieces))
            counts[f"{format}.{file_type}"] = len(lines)
    for file_type in ("jsonl", "parquet"):
        version = create_dataset_version(project=project, format="preference", file_type=file_type)
        packed = folder / f"version-{file_type}.zip"
        packed.write_bytes(b"".join(as_zip(version)))
        counts[f"version-{file_type}"] = version.manifest["rows"]
    return counts


# ---- What follows runs in the trainers' environment, which knows nothing of this project.


def load_all(folder: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Open every file and folder with load_dataset and compare the rows."""
    import zipfile

    from datasets import load_dataset

    builders = {"jsonl": "json", "parquet": "parquet", "csv": "csv"}
    report = {}
    for name, count in counts.items():
        if name.startswith("version-"):
            with zipfile.ZipFile(folder / f"{name}.zip") as archive:
                archive.extractall(folder / name)
            splits = load_dataset(str(folder / name))
            report[name] = {split: len(rows) for split, rows in splits.items()} == count
            continue
        builder = builders[name.rpartition(".")[2]]
        rows = load_dataset(builder, data_files=str(folder / name), split="train")
        report[name] = len(rows) == count
    return report


def train_all(folder: Path) -> dict[str, Any]:
    """Let each trainer take one step on its format's file as it is."""
    import transformers
    import trl
    from datasets import load_dataset

    try:
        from trl import KTOConfig, KTOTrainer
    except ImportError:
        from trl.experimental.kto import KTOConfig, KTOTrainer

    model = str(folder / "model")
    # From its parts: transformers before 5 does not read how that writes a tokenizer's settings.
    stated = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    of_parts: Any = transformers.PreTrainedTokenizerFast
    tokenizer = of_parts(
        tokenizer_file=str(folder / "model" / "tokenizer.json"),
        chat_template=(folder / "model" / "chat_template.jinja").read_text(),
        **{name: value for name, value in stated.items() if name.endswith("_token") and isinstance(value, str)},
    )
    causal, scoring = transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification
    runs = [
        ("RewardTrainer", trl.RewardTrainer, trl.RewardConfig, scoring, ("preference", "implicit")),
        ("DPOTrainer", trl.DPOTrainer, trl.DPOConfig, causal, ("preference", "implicit")),
        ("KTOTrainer", KTOTrainer, KTOConfig, causal, ("unpaired",)),
        ("SFTTrainer", trl.SFTTrainer, trl.SFTConfig, causal, ("sft",)),
    ]
    report: dict[str, Any] = {}
    for name, trainer, config, kind, formats in runs:
        for format in formats:
            for suffix, builder in (("jsonl", "json"), ("parquet", "parquet")):
                rows = load_dataset(builder, data_files=str(folder / f"{format}.{suffix}"), split="train")
                more = {"num_labels": 1} if kind is scoring else {}
                args = config(
                    output_dir=str(folder / "out"), max_steps=1, per_device_train_batch_size=4, use_cpu=True,
                    report_to=[], save_strategy="no", bf16=False, max_length=128,
                )  # fmt: skip
                learner = trainer(
                    model=kind.from_pretrained(model, **more), args=args, train_dataset=rows, processing_class=tokenizer
                )
                report[f"{name} on {format}.{suffix}"] = round(learner.train().training_loss, 4)
    report["versions"] = {"trl": trl.__version__, "transformers": transformers.__version__}
    return report


def run_trainers(python: str, folder: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Do both in the other environment and return what they say."""
    (folder / "counts.json").write_text(json.dumps(counts))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        # -P: the folder of this file holds another datasets.
        [python, "-P", __file__, "--inside", str(folder)], env=os.environ | offline, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def main() -> None:
    """Export here, train there, print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", help="the Python of an environment with trl, datasets and transformers")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        counts = json.loads((arguments.inside / "counts.json").read_text())
        print(json.dumps({"loaded": load_all(arguments.inside, counts), "losses": train_all(arguments.inside)}))
        return
    if not arguments.trainers:
        parser.error("--trainers is needed")
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "feedback_app.settings")
    from benchmarks import datasets as bench

    with bench.services(), tempfile.TemporaryDirectory() as name:
        import django

        django.setup()
        if "DATABASE_URL" not in os.environ:
            from feedback_app.embedded.migrations import migrate_embedded

            migrate_embedded()
        from tests.training.tiny import make_tiny_model

        folder = Path(name)
        make_tiny_model(folder / "model")
        try:
            counts = export_all(folder)
            print(json.dumps(run_trainers(arguments.trainers, folder, counts), indent=2))
        finally:
            bench.clean_up(f"bench-{os.getpid()}-")


if __name__ == "__main__":
    main()
