"""Annotation in Django's admin: for looking, since every write has rules that only the services know."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from feedback_app.annotation.models import Assignment, Judgment, JudgmentRevision, Prompt, Response, SampleJob, Task


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Shows rows and changes none; big tables are not counted for a page of them."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Prompt)
class PromptAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "project", "split", "active", "times_sampled", "created_at"]
    list_filter = ["project", "split", "active"]
    list_select_related = ["project"]
    search_fields = ["external_id", "content_sha256"]


@admin.register(Response)
class ResponseAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "source", "policy", "model_name", "seed", "created_at"]
    list_filter = ["source"]
    list_select_related = ["policy"]


@admin.register(Task)
class TaskAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "kind", "state", "open", "priority", "overlap", "reserved", "counted"]
    list_filter = ["project", "kind", "state", "open"]
    list_select_related = ["project"]
    search_fields = ["id", "external_id"]


@admin.register(Assignment)
class AssignmentAdmin(ReadOnlyAdmin):
    list_display = ["id", "task", "annotator", "state", "created_at", "expires_at"]
    list_filter = ["state"]
    list_select_related = ["annotator"]


@admin.register(Judgment)
class JudgmentAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "annotator", "origin", "surplus", "revision", "created_at", "voided_at"]
    list_filter = ["project", "origin", "surplus"]
    list_select_related = ["project", "annotator"]
    search_fields = ["id", "annotator__username"]


@admin.register(JudgmentRevision)
class JudgmentRevisionAdmin(ReadOnlyAdmin):
    list_display = ["judgment", "revision", "replaced_at", "replaced_by"]
    list_select_related = ["judgment", "replaced_by"]


@admin.register(SampleJob)
class SampleJobAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "state", "prompts_wanted", "tasks_made", "automatic", "created_at"]
    list_filter = ["project", "state"]
    list_select_related = ["project"]
