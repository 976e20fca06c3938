"""Where the embedded services keep their data and listen: all follows from DATA_DIR, so every process agrees."""

import hashlib
import os
import pwd
import socket
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

DATABASE = "rlhf"
# Where root keeps what PostgreSQL's user must reach and cannot reach below DATA_DIR.
OUTSIDE = Path("/var/lib/rlhf-loop")


def run_dir(data_dir: Path) -> Path:
    """Return the folder of sockets and locks; short, for a socket's path may have 107 bytes at most."""
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"rlhf-{os.getuid()}-{digest}"


def make_run_dir(data_dir: Path) -> Path:
    """Return the folder of sockets and locks, made where it is missing.

    Raises:
        PermissionError: somebody else made a folder of that name.
    """
    folder = run_dir(data_dir)
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # whatever the umask: as root, PostgreSQL's user passes through
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def socket_dir(data_dir: Path) -> Path:
    """Return the folder of PostgreSQL's socket; its own, for as root another user writes there."""
    return run_dir(data_dir) / "pg"


def postgres_user() -> pwd.struct_passwd | None:
    """Return the unprivileged user that runs PostgreSQL when we are root (it refuses to), else None."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody", "daemon"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and this machine has no user postgres, nobody or daemon")


def postgres_dir(data_dir: Path) -> Path:
    """Return the cluster's folder: below DATA_DIR, or as root where the unprivileged user can reach it."""
    if postgres_user() is None or is_reachable(data_dir):
        return data_dir / "postgres"
    return root_dir(data_dir) / "postgres"


def root_dir(data_dir: Path) -> Path:
    """Return the folder outside DATA_DIR for what root's PostgreSQL user must reach and cannot reach there."""
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    return OUTSIDE / digest


def make_passable(folder: Path) -> None:
    """Make a folder of ours outside DATA_DIR that others may pass through, whatever the umask."""
    for part in (*reversed([parent for parent in folder.parents if parent.is_relative_to(OUTSIDE)]), folder):
        if not part.exists():
            part.mkdir(parents=True)
            part.chmod(0o711)


def is_reachable(path: Path) -> bool:
    """Say whether others may pass through every folder above a path; we never change the modes of those."""
    existing = [parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists()]
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in existing)


def database_url(data_dir: Path, name: str = DATABASE) -> str:
    """Return the embedded database's address, by socket."""
    return f"postgresql://postgres@/{name}?host={quote(str(socket_dir(data_dir)), safe='')}"


def redis_url(data_dir: Path) -> str:
    """Return the embedded Valkey's address."""
    port = port_of(data_dir, "valkey")
    return f"redis://127.0.0.1:{port}/0"


def serving_url(data_dir: Path) -> str:
    """Return the embedded inference server's address."""
    return f"http://127.0.0.1:{port_of(data_dir, 'inference')}"


def port_of(data_dir: Path, service: str) -> int:
    """Return a service's port: one kept in DATA_DIR/ports once chosen, else derived from DATA_DIR's path.

    A port, where a socket is not spoken by a client (Celery's kombu, huggingface_hub): between 20000 and 29999.
    """
    kept = data_dir / "ports" / service
    if kept.is_file():
        return int(kept.read_text())
    digest = hashlib.sha256(f"{data_dir.resolve()}:{service}".encode()).digest()
    return 20000 + int.from_bytes(digest[:4], "big") % 10000


def choose_port(data_dir: Path, service: str) -> int:
    """Return a free port for a service that is about to start: the one it had where that is free, else another."""
    wanted = port_of(data_dir, service)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
            return wanted
        except OSError:
            probe.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = data_dir / "ports" / service
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(str(port))
    return port
