"""API addresses of the rounds app, below /api/v1/."""

from django.urls import URLPattern, URLResolver, path, re_path

from feedback_app.rounds.api import ACTS, RoundActApi, RoundApi, RoundsApi
from feedback_app.rounds.elsewhere_api import EvaluatePolicyApi, RegisterPolicyApi

urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/<slug:slug>/policies/register/", RegisterPolicyApi.as_view(), name="register_policy"),
    path("policies/<uuid:policy_id>/evaluate/", EvaluatePolicyApi.as_view(), name="evaluate_policy"),
    path("projects/<slug:slug>/rounds/", RoundsApi.as_view(), name="rounds"),
    path("rounds/<uuid:round_id>/", RoundApi.as_view(), name="round"),
    re_path(
        rf"^rounds/(?P<round_id>[0-9a-f-]{{36}})/(?P<act>{'|'.join(ACTS)})/$", RoundActApi.as_view(), name="round_act"
    ),
]
