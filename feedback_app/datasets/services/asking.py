"""What a dataset version is asked to hold, checked before anybody works on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from feedback_app.datasets.exporting.options import ExportOptions, OptionsError, parse_options
from feedback_app.datasets.formats.exports import EXPORT_FORMATS

VERSION_FILE_TYPES = ("jsonl", "parquet")


@dataclass(frozen=True)
class Asked:
    """What a version is to hold, its words checked."""

    format: str
    options: ExportOptions
    file_type: str


def read_request(*, format: str, options: ExportOptions | Mapping[str, Any] | None, file_type: str) -> Asked:
    """Return what is asked for; raises ValidationError naming what is unknown."""
    for name, value, known in (("file", file_type, VERSION_FILE_TYPES), ("format", format, EXPORT_FORMATS)):
        if value not in known:
            raise ValidationError({name: [_("one of %(names)s") % {"names": ", ".join(known)}]})
    try:
        chosen = options if isinstance(options, ExportOptions) else parse_options(options or {})
    except OptionsError as error:
        raise ValidationError({error.field_name: [error.reason]}) from error
    return Asked(format, chosen, file_type)
