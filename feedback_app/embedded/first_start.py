"""What the first start leaves behind: an administrator, and projects to look at."""

import secrets

from django.core.management import call_command

from feedback_app.accounts.models import User
from feedback_app.accounts.services import create_user

ADMINISTRATOR = "admin"


def make_administrator() -> tuple[str, str] | None:
    """Return (name, password) of an administrator made now, None where there is one already."""
    if User.objects.filter(is_superuser=True).exists():
        return None
    password = "-".join(secrets.token_hex(2) for _ in range(4))
    create_user(username=ADMINISTRATOR, password=password, is_superuser=True, password_given=True)
    return ADMINISTRATOR, password


def seed() -> None:
    """Make the shipped projects where they are missing."""
    call_command("seed", verbosity=0)
