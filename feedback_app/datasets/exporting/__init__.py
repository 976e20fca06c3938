"""Exports: judged tasks streamed from the database, shaped by a format's rules, written to a file type."""

from feedback_app.datasets.exporting.options import ExportOptions, OptionsError, parse_options

__all__ = ["ExportOptions", "OptionsError", "parse_options"]
