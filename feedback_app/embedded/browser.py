"""Find a Chromium for the browser tests; as root on Debian, fetch one from the system's packages.

python -m feedback_app.embedded.browser
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the path of an installed browser, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def main() -> int:
    """Install a browser where none is found and we may; otherwise say what to do."""
    if find_browser():
        return 0
    if os.getuid() != 0 or not shutil.which("apt-get"):
        print("The browser tests need Chromium: install it with your system's packages.", file=sys.stderr)
        return 1
    print("Installing Chromium for the browser tests ...")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium", "fonts-noto-cjk"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return 1
    return 0 if find_browser() else 1


if __name__ == "__main__":
    sys.exit(main())
