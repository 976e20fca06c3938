"""Who calls the API: `Authorization: Token KEY`, checked against the stored digest in one indexed query."""

from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from feedback_app.accounts.models import ApiToken, User
from feedback_app.accounts.services import token_digest


class TokenAuthentication(BaseAuthentication):
    """Read the token of the request; no header leaves the request to the session."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        parts = get_authorization_header(request).split()
        if not parts or parts[0].lower() != b"token":
            return None
        if len(parts) != 2:
            raise AuthenticationFailed(_("Authorization: Token KEY is needed, with one key and no spaces in it."))
        key = parts[1].decode("latin-1")
        token = (
            ApiToken.objects.select_related("user")
            .filter(key_sha256=token_digest(key), revoked_at=None, user__is_active=True)
            .first()
        )
        if token is None:
            raise AuthenticationFailed(_("This token is unknown or revoked."))
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Token"


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular is untyped here
    """Tell the OpenAPI schema of the header."""

    target_class = "feedback_app.accounts.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token KEY"}
