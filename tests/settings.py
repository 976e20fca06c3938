"""The project's settings with a DATA_DIR of the test session's own; set before Django reads anything."""

import os
import tempfile
from pathlib import Path

for _name in ("DATABASE_URL", "REDIS_URL", "SERVING_URL", "SECRET_KEY", "ALLOWED_HOSTS"):
    os.environ.pop(_name, None)
_folder = Path(tempfile.mkdtemp(prefix="rlhf-test-"))
_folder.chmod(0o711)  # as root, PostgreSQL runs as another user that must pass through
os.environ["DATA_DIR"] = str(_folder)

from feedback_app.settings import *  # noqa: E402, F403  # after the environment is set

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
