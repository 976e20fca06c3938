"""Forget what an interrupted pip left: a package with metadata but half its files counts as installed for ever.

python feedback_app/embedded/half_installed.py      (standard library alone: it runs before anything is installed)
"""

import shutil
import sysconfig
from pathlib import Path


def forget_half_installed(site_packages: Path) -> list[str]:
    """Remove the metadata of packages that pip did not finish, so that it installs them again; returns their names.

    pip writes INSTALLER and then RECORD when a package's files are all in place; other installers write RECORD too.
    """
    forgotten = []
    for info in sorted(site_packages.glob("*.dist-info")):
        if not (info / "RECORD").is_file():
            shutil.rmtree(info)
            forgotten.append(info.name.removesuffix(".dist-info"))
    return forgotten


if __name__ == "__main__":
    for name in forget_half_installed(Path(sysconfig.get_paths()["purelib"])):
        print(f"{name} was half installed; it is installed again.")
