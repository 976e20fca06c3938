"""The pages of annotation: judging and its history for annotators, tasks and quality for those who run a project."""
