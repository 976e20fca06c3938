"""Pages of the annotation app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.annotation.views import history, home, judging

app_name = "annotation"
urlpatterns: list[URLPattern | URLResolver] = [
    path("", home.home, name="home"),
    path("p/<slug:slug>/judge/", judging.judge, name="judge"),
    path("p/<slug:slug>/judge/next/", judging.NextTaskView.as_view(), name="judge_next"),
    path("p/<slug:slug>/judge/judgments/<uuid:judgment_id>/", judging.JudgmentView.as_view(), name="judge_judgment"),
    path("p/<slug:slug>/judge/guidelines/", judging.GuidelinesView.as_view(), name="judge_guidelines"),
    path("p/<slug:slug>/judge/keys/", judging.KeysView.as_view(), name="judge_keys"),
    path("p/<slug:slug>/history/", history.history, name="history"),
]
