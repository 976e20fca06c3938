"""Static files in production: each under a name with its hash, and the modules that import one another as well."""

import re
from collections.abc import Callable
from typing import Any

from whitenoise.storage import CompressedManifestStaticFilesStorage  # type: ignore[import-untyped]  # it has none

# Other people's scripts are no modules of ours: what looks like an import there may stand in a comment.
OURS = ("js/", "vendor/")


class HashedModulesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # untyped base
    """Rewrite imports between our ES modules to the hashed names, so that a new release never mixes old and new."""

    support_js_module_import_aggregation = True

    def url_converter(
        self, name: str, hashed_files: dict[str, str], template: str | None = None, *more: Any
    ) -> Callable[[re.Match[str]], str]:
        """Return what rewrites an address found in the file of this name."""
        if name.endswith(".js") and not name.startswith(OURS):
            return lambda found: found.group(0)
        converter: Callable[[re.Match[str]], str] = super().url_converter(name, hashed_files, template, *more)
        return converter
