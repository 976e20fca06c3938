"""Column types that several export formats share."""

import pyarrow

# A conversation, as chat templates take it.
MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
# Where the two sides of a pair come from.
ORIGINS = [
    (f"{side}_{name}", pyarrow.string())
    for name in ("id", "policy", "finish_reason")
    for side in ("chosen", "rejected")
]
