"""Writes to serving: policy versions, pushes and the live pointer."""

from feedback_app.serving.services.endpoints import serve_project_from, set_endpoint
from feedback_app.serving.services.policies import (
    ensure_base_policy,
    ensure_endpoint,
    ensure_staged,
    register_policy,
    restage_missing,
)
from feedback_app.serving.services.pushing import PushRefused, push_policy, roll_back

__all__ = [
    "PushRefused",
    "ensure_base_policy",
    "ensure_endpoint",
    "ensure_staged",
    "push_policy",
    "register_policy",
    "restage_missing",
    "roll_back",
    "serve_project_from",
    "set_endpoint",
]
