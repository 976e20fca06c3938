"""Settings come from the environment; one that cannot be is told in a line that names the variable."""

import runpy
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

SETTINGS = Path(__file__).resolve().parents[2] / "feedback_app" / "settings.py"


def settings_with(monkeypatch: pytest.MonkeyPatch, data_dir: Path, **variables: str) -> dict[str, Any]:
    """Return the settings' names as they are read in an environment with these variables."""
    for name, value in {"DATA_DIR": str(data_dir), **variables}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(SETTINGS))


@pytest.mark.parametrize(("name", "value", "told"), [
    ("KEEP_VERSIONS", "many", "KEEP_VERSIONS: a whole number, 1 or more, not 'many'"),
    ("KEEP_VERSIONS", "0", "KEEP_VERSIONS: a whole number, 1 or more, not '0'"),
    ("SOAK_MINUTES", "nan", "SOAK_MINUTES: minutes, from 0 to a week's 10080, not 'nan'"),
    ("SOAK_MINUTES", "-1", "SOAK_MINUTES: minutes, from 0 to a week's 10080, not '-1'"),
    ("EMAIL_PORT", "smtp", "EMAIL_PORT: a port from 1 to 65535, not 'smtp'"),
    ("WEBHOOK_NETWORKS", "10.1.0.0/16,office", "WEBHOOK_NETWORKS: networks such as .*'10.1.0.0/16,office'"),
    ("DEPLOY_COMMAND", "deploy 'it", "DEPLOY_COMMAND: a command with its quotation marks closed"),
    ("LOG_LEVEL", "loud", "LOG_LEVEL: one of DEBUG, .*, not 'loud'"),
    ("LOG_FORMAT", "xml", "LOG_FORMAT: one of .*, not 'xml'"),
])  # fmt: skip
def test_a_variable_that_cannot_be_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, told: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{told}"):
        settings_with(monkeypatch, tmp_path, **{name: value})


def test_a_databases_port_is_a_number() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^DATABASE_URL: the port"):
        runpy.run_path(str(SETTINGS))["database_from_url"]("postgresql://user@host:port/name")


def test_variables_are_read_and_empty_ones_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = settings_with(
        monkeypatch, tmp_path, KEEP_VERSIONS=" 7 ", SOAK_MINUTES="", WEBHOOK_NETWORKS="10.1.0.0/16, 127.0.0.1",
        DEPLOY_COMMAND="deploy 'to here'",
    )  # fmt: skip
    assert (read["KEEP_VERSIONS"], read["SOAK_MINUTES"]) == (7, 15.0)
    assert read["WEBHOOK_NETWORKS"] == [ip_network("10.1.0.0/16"), ip_network("127.0.0.1")]
    assert read["DEPLOY_COMMAND"] == ["deploy", "to here"]
