"""Projects in Django's admin: for administrators of the site."""

from django.contrib import admin

from feedback_app.projects.models import Member, Project


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin[Project]):
    list_display = ("slug", "name", "language", "overlap", "created_at", "archived_at")
    search_fields = ("slug", "name")
    readonly_fields = ("protocol", "guidelines")


@admin.register(Member)
class MemberAdmin(admin.ModelAdmin[Member]):
    list_display = ("project", "user", "role", "paused_at")
    list_filter = ("role",)
    list_select_related = ("project", "user")
