"""The import formats by name."""

from feedback_app.datasets.formats import implicit, judged, label_studio, oasst, preference, prompts, ratings
from feedback_app.datasets.formats.base import Converter

IMPORT_FORMATS: dict[str, Converter] = {
    "judged": judged.convert,
    "prompts": prompts.convert,
    "preference": preference.convert,
    "hh-rlhf": implicit.convert,
    "helpsteer2": ratings.convert,
    "oasst": oasst.convert,
    "label-studio": label_studio.convert,
}
