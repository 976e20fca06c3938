"""Dataset versions: an export frozen in a folder, hashed, and told how to be made again."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.datasets.exporting.options import ExportOptions, OptionsError
from feedback_app.datasets.exporting.rows import Export, prepare_export
from feedback_app.datasets.exporting.writing import Drain, write_pieces
from feedback_app.datasets.loading import subject_of_annotator
from feedback_app.datasets.models import DatasetVersion, Erasure
from feedback_app.datasets.services.asking import Asked, read_request
from feedback_app.datasets.services.cards import CARD, write_card
from feedback_app.datasets.services.held import HELD_JUDGMENTS, count_held, voided_since
from feedback_app.datasets.services.manifests import Tally, manifest_of
from feedback_app.projects.models import Project

MANIFEST = "manifest.json"
# So often a version is made anew because what it read was voided meanwhile; then it is stored, and will be marked.
MADE_ANEW = 2


class Watcher:
    """Who follows how a version is made; what one of these raises has the version thrown away."""

    def began(self) -> None:
        """Its rows are read, for the first time or anew."""

    def wrote(self, tasks: int) -> None:
        """So many more tasks are written."""

    def stored(self, version: DatasetVersion) -> None:
        """It is in the database, by a transaction that this may write in too."""


def create_dataset_version(
    *,
    project: Project,
    format: str,
    options: ExportOptions | Mapping[str, Any] | None = None,
    file_type: str = "jsonl",
    created_by: User | None = None,
    watcher: Watcher | None = None,
) -> DatasetVersion:
    """Freeze what the project's judgments make at this moment, each split in a file of its own.

    Every split is in it unless the options name one: train.jsonl, validation.jsonl, test.jsonl (see split_files). The
    folder holds a manifest.json besides, and is never written again. Equal rows give an equal content_sha256.

    Raises:
        ValidationError: names the option that is unknown, or says that there is nothing to export.
    """
    asked = read_request(format=format, options=options, file_type=file_type)
    try:
        voided = 0
        while True:
            try:
                return _make(project, asked, created_by, watcher or Watcher(), take_voided=voided >= MADE_ANEW)
            except _VoidedMeanwhile:
                voided += 1
            except _ErasedMeanwhile as meanwhile:
                if meanwhile.subjects & {subject_of_annotator(name) for name in asked.options.annotators}:
                    raise ValidationError({"annotators": [_("one of them was erased from the project")]}) from None
    except OptionsError as error:
        raise ValidationError({error.field_name: [error.reason]}) from error


class _VoidedMeanwhile(Exception):
    """Some of what was read has been voided since."""


class _ErasedMeanwhile(Exception):
    """Something was erased after the rows were read: what was written of them may hold it, and is thrown away."""

    def __init__(self, subjects: set[str]) -> None:
        self.subjects = subjects
        super().__init__()


def _make(
    project: Project, asked: Asked, created_by: User | None, watcher: Watcher, *, take_voided: bool
) -> DatasetVersion:
    """Write a version's files in a folder that nobody sees, and store it.

    Raises _ErasedMeanwhile, OptionsError, and _VoidedMeanwhile unless take_voided.
    """
    began, options = timezone.now(), asked.options
    watcher.began()
    erased = _erased_subjects(project)  # before anything else is read, so that none is missed
    export = prepare_export(project=project, format=asked.format, options=options, split=options.split or "all")
    draft = Path(settings.DATA_DIR) / "datasets" / f".{uuid.uuid4()}"
    draft.mkdir(parents=True)
    try:
        tally = _write_files(export, draft, asked.file_type, watcher)
        if not tally.rows:
            raise ValidationError({"options": [_("no judgment makes a row of this format by these options")]})
        files = {path.name: file_sha256(path) for path in sorted(draft.iterdir())}
        manifest = manifest_of(export, asked, tally, files)
        with transaction.atomic():
            # Two versions at once get two numbers; and an erasure marks this one, or is seen here.
            lock_versions(project)
            if since := _erased_subjects(project).items() - erased.items():
                raise _ErasedMeanwhile({subject for _pk, subject in since})
            if not take_voided and count_held(draft, voided_since(project=project, moment=began)):
                raise _VoidedMeanwhile
            version = _store(project, manifest, created_by)
            watcher.stored(version)
            _seal(draft, version)
        return version
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _erased_subjects(project: Project) -> dict[int, str]:
    return dict(Erasure.objects.filter(project=project).values_list("pk", "subject_sha256"))


def _write_files(export: Export, folder: Path, file_type: str, watcher: Watcher) -> Tally:
    """Write a file for each split that has rows; one pass over the database feeds them all."""
    tally = Tally()
    with ExitStack() as stack:
        held = stack.enter_context((folder / HELD_JUDGMENTS).open("wb"))
        plain: dict[str, IO[str]] = {}
        for tasks in export.prompts():
            watcher.wrote(len(tasks))
            split, some = tasks[0].split, False
            for line in export.lines_of(tasks):
                if split not in plain:
                    plain[split] = stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8"))
                plain[split].write(f"{line}\n")
                tally.rows[split] += 1
                some = True
            if some:
                tally.add(tasks)
                held.writelines(uuid.UUID(judgment.id).bytes for task in tasks for judgment in task.judgments)
    if file_type == "parquet":
        for split in plain:
            source = folder / f"{split}.jsonl"
            with source.open(encoding="utf-8", newline="\n") as lines, source.with_suffix(".parquet").open("wb") as out:
                stripped = (line.removesuffix("\n") for line in lines)
                out.writelines(
                    write_pieces(stripped, file_type="parquet", schema=export.schema, as_text=export.format.as_text)
                )
            source.unlink()
    return tally


def _store(project: Project, manifest: dict[str, Any], created_by: User | None) -> DatasetVersion:
    """Number the version and write its row; versions are locked."""
    digest = hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()
    newest = DatasetVersion.objects.filter(project=project).aggregate(newest=Max("number"))["newest"]
    version = DatasetVersion(
        project=project,
        number=(newest or 0) + 1,
        format=manifest["format"],
        options=manifest["options"],
        content_sha256=digest,
        manifest={**manifest, "content_sha256": digest, "number": (newest or 0) + 1},
        created_by=created_by,
    )
    version.directory = f"datasets/{project.slug}-{version.number}-{version.pk}"
    version.save(force_insert=True)
    record_audit(
        actor=created_by, action="dataset.create", subject=str(version), project_slug=project.slug,
        detail={"dataset": str(version.pk), "rows": manifest["rows"]},
    )  # fmt: skip
    return version


def _seal(draft: Path, version: DatasetVersion) -> None:
    """Complete the version's folder and give it the place that nothing else will ever have."""
    (draft / CARD).write_text(write_card(version.manifest), encoding="utf-8")
    (draft / MANIFEST).write_text(json.dumps(version.manifest, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for path in draft.iterdir():
        _settle(path)
    draft.rename(folder_of(version))


def lock_versions(project: Project) -> None:
    """Keep the project's versions from becoming more until the transaction ends; the project's row is the lock.

    Judgments go on meanwhile: the lock leaves foreign keys alone. Who locks tasks too has them first.
    """
    Project.objects.select_for_update(no_key=True).only("id").get(pk=project.pk)


def _settle(path: Path) -> None:
    """Bring a file to the disk and make it read-only."""
    path.chmod(0o444)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def folder_of(version: DatasetVersion) -> Path:
    """Return the version's folder."""
    return Path(settings.DATA_DIR) / version.directory


def split_files(version: DatasetVersion) -> dict[str, Path]:
    """Return the file of each split that has rows."""
    return {
        split: folder_of(version) / f"{split}.{version.manifest['file_type']}" for split in version.manifest["rows"]
    }


def file_names(version: DatasetVersion) -> list[str]:
    """Return the names of the version's files, as its manifest lists them, and the manifest's own."""
    return [*version.manifest["files"], MANIFEST, CARD]


def verify_dataset(version: DatasetVersion) -> None:
    """Raise ValidationError naming the first file that is missing or is no longer what it was."""
    for name, digest in version.manifest["files"].items():
        path = folder_of(version) / name
        if not path.is_file() or file_sha256(path) != digest:
            raise ValidationError({"files": [_("%(name)s is missing or was changed") % {"name": name}]})


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_zip(version: DatasetVersion) -> Iterator[bytes]:
    """Yield the version's folder as a ZIP archive, piece by piece."""
    drain = Drain()
    folder = folder_of(version)
    with ZipFile(drain, "w", ZIP_DEFLATED, allowZip64=True) as archive:
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as member:
                while piece := source.read(2**18):
                    member.write(piece)
                    yield drain.take()
    yield drain.take()
