"""What trainers made, kept beyond the machine that made it: written once, by content, and verified on every read.

A store is any address that fsspec knows. Files lie in it by their SHA-256, so what two versions share is there once; a
directory's manifest lies under the directory's own name and is written last. Checkpoints are in no manifest, and stay
with the machine.
"""

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from django.conf import settings

from training.records import MANIFEST, DataError, file_sha256, verify_manifest

logger = logging.getLogger(__name__)
PIECE = 2**20


class ArtifactError(DataError):
    """The store cannot be reached, holds something else than was promised, or was asked to write over what it holds."""


class ArtifactStore:
    """Directories with a manifest, below a home here and below an address there."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        try:
            # An instance of our own: a transaction is the instance's, and others may be in one.
            self.files, self.root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"ARTIFACT_STORE: {url}: {error}") from error

    def has(self, directory: Path) -> bool:
        """Say whether a directory's manifest is in the store: then all of it is."""
        with self._reached():
            return bool(self.files.exists(self._manifest(directory)))

    def put(self, directory: Path) -> None:
        """Copy a directory into the store, after it was verified; one that is there already is left as it is.

        Raises:
            DataError: the directory is not what its manifest says.
            ArtifactError: the store holds another directory of this name, or cannot be reached.
        """
        manifest = verify_manifest(directory)
        text = (directory / MANIFEST).read_bytes()
        there = self._manifest(directory)
        with self._reached():
            if self.files.exists(there):
                if self.files.cat_file(there) != text:
                    raise ArtifactError(f"{self.url}: {self._key(directory)} is there already, and is another one")
                return
            for name, file in manifest["files"].items():
                blob = self._blob(str(file["sha256"]))
                if not self._holds(blob, int(file["size"])):
                    self._write(blob, directory / name)
            self._write(there, directory / MANIFEST)
        logger.info("artifact %s is in the store", self._key(directory))

    def fetch(self, directory: Path) -> bool:
        """Bring a directory here, each file verified as it comes and the manifest last; False where there is none.

        Files that are here and right stay; others are replaced, never written into.

        Raises:
            ArtifactError: a file in the store is missing or differs, or the store cannot be reached.
        """
        with self._reached():
            there = self._manifest(directory)
            if not self.files.exists(there):
                return False
            text = bytes(self.files.cat_file(there))
            for name, size, sha256 in _files_of(text, there):
                target = directory / name
                if not (target.is_file() and target.stat().st_size == size and file_sha256(target) == sha256):
                    self._read(self._blob(sha256), target, sha256)
            _place(directory / MANIFEST, text)
        logger.info("artifact %s was fetched", self._key(directory))
        return True

    def _key(self, directory: Path) -> str:
        """Return a directory's name in the store: its path below home, the same on every machine."""
        try:
            return PurePosixPath(directory.resolve().relative_to(self.home.resolve())).as_posix()
        except ValueError as error:
            raise ArtifactError(f"{directory}: is not below {self.home}") from error

    def _manifest(self, directory: Path) -> str:
        return f"{self.root}/manifests/{self._key(directory)}/{MANIFEST}"

    def _blob(self, sha256: str) -> str:
        return f"{self.root}/sha256/{sha256[:2]}/{sha256}"

    def _holds(self, blob: str, size: int) -> bool:
        return bool(self.files.exists(blob)) and int(self.files.size(blob)) == size

    def _write(self, there: str, path: Path) -> None:
        """Write a file so that it is there whole or not at all."""
        self.files.makedirs(self.files._parent(there), exist_ok=True)
        with self.files.transaction, path.open("rb") as source, self.files.open(there, "wb") as target:
            while piece := source.read(PIECE):
                target.write(piece)

    def _read(self, blob: str, target: Path, sha256: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        digest = hashlib.sha256()
        try:
            with self.files.open(blob, "rb") as source, fresh.open("wb") as file:
                while piece := source.read(PIECE):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256:
                raise ArtifactError(f"{self.url}: {blob} differs from its name: it was written over, or is damaged")
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Tell what the store's own library raises as one error with the store's address."""
        try:
            yield
        except DataError:
            raise
        except FileNotFoundError as error:
            raise ArtifactError(f"{self.url}: a file that a manifest names is missing: {error}") from error
        except Exception as error:  # every protocol has errors of its own
            raise ArtifactError(f"{self.url}: {type(error).__name__}: {error}") from error


def _files_of(text: bytes, there: str) -> list[tuple[str, int, str]]:
    """Read a manifest's files as (name, size, SHA-256); a name that leads out of its directory is refused."""
    try:
        files: Mapping[str, Any] = json.loads(text)["files"]
        found = [(str(name), int(file["size"]), str(file["sha256"])) for name, file in files.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{there}: no manifest: {type(error).__name__}: {error}") from error
    for name, _size, _sha256 in found:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{there}: {name!r} leads out of the directory")
    return found


def _place(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    fresh.write_bytes(content)
    fresh.replace(path)


def configured_store() -> ArtifactStore | None:
    """Return the store that ARTIFACT_STORE names; None: what is made stays on this machine alone."""
    if not settings.ARTIFACT_STORE:
        return None
    return ArtifactStore(settings.ARTIFACT_STORE, Path(settings.DATA_DIR))


def mirror(directory: Path) -> None:
    """Copy a finished directory into the store, where one is configured."""
    if (store := configured_store()) is not None:
        store.put(directory)


def is_mirrored(directory: str | Path) -> bool:
    """Say whether the store has a directory, so that this machine's copy can be brought back."""
    store = configured_store()
    return store is not None and Path(directory).is_relative_to(settings.DATA_DIR) and store.has(Path(directory))


def bring_here(directory: str | Path) -> None:
    """Fetch a directory that this machine lacks, or has lost files of; what no store holds is left as it is."""
    path = Path(directory)
    store = configured_store()
    if store is None or not path.is_relative_to(settings.DATA_DIR):  # a base model, say: everybody's own
        return
    try:
        verify_manifest(path)
    except DataError:
        store.fetch(path)
