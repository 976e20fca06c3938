"""Writes to serving: policy versions, pushes and the live pointer."""

from feedback_app.serving.services.endpoints import measure_endpoint, serve_project_from, set_endpoint
from feedback_app.serving.services.observing import forget_observations, record_samples
from feedback_app.serving.services.policies import (
    ensure_base_policy,
    ensure_endpoint,
    ensure_staged,
    register_policy,
    release_policy,
    restage_missing,
)
from feedback_app.serving.services.pushing import PushRefused, cut_push_leases, push_policy, roll_back
from feedback_app.serving.services.watching import watch_soaks

__all__ = [
    "PushRefused",
    "cut_push_leases",
    "ensure_base_policy",
    "ensure_endpoint",
    "ensure_staged",
    "forget_observations",
    "measure_endpoint",
    "push_policy",
    "record_samples",
    "register_policy",
    "release_policy",
    "restage_missing",
    "roll_back",
    "serve_project_from",
    "set_endpoint",
    "watch_soaks",
]
