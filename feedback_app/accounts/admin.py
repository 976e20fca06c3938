"""Accounts in Django's admin: for administrators of the site."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from feedback_app.accounts.forms import AdminSignInForm
from feedback_app.accounts.models import ApiToken, AuditEntry, User

admin.site.login_form = AdminSignInForm
admin.site.register(User, UserAdmin)


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin[ApiToken]):
    list_display = ("user", "name", "created_at", "revoked_at")
    list_select_related = ("user",)
    exclude = ("key_sha256",)
    readonly_fields = ("user", "created_at")


@admin.register(AuditEntry)
class AuditEntryAdmin(admin.ModelAdmin[AuditEntry]):
    list_display = ("at", "actor", "action", "subject", "project_slug")
    list_filter = ("action",)
    search_fields = ("subject", "project_slug")
    list_select_related = ("actor",)

    def has_add_permission(self, request: object) -> bool:
        return False

    def has_change_permission(self, request: object, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: object, obj: object = None) -> bool:
        return False
