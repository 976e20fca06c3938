"""The import formats by name: a new one is one small file here and one line below."""

from feedback_app.datasets.formats import judged, prompts
from feedback_app.datasets.formats.base import Converter

IMPORT_FORMATS: dict[str, Converter] = {
    "judged": judged.convert,
    "prompts": prompts.convert,
}
