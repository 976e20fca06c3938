"""API addresses of the annotation app, below /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.annotation import api, managing_api, sample_api, trust_api

urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/<slug:slug>/tasks/next/", api.NextTaskView.as_view(), name="tasks_next"),
    path("projects/<slug:slug>/tasks/change/", managing_api.ChangeTasksApi.as_view(), name="tasks_change"),
    path("projects/<slug:slug>/judgments/void/", managing_api.VoidApi.as_view(), name="judgments_void"),
    path("projects/<slug:slug>/quality/", api.QualityView.as_view(), name="quality"),
    path("tasks/<uuid:task_id>/draft/", api.DraftView.as_view(), name="tasks_draft"),
    path("tasks/<uuid:task_id>/renew/", api.RenewView.as_view(), name="tasks_renew"),
    path("tasks/<uuid:task_id>/skip/", api.SkipView.as_view(), name="tasks_skip"),
    path("tasks/<uuid:task_id>/report/", api.ReportView.as_view(), name="tasks_report"),
    path("tasks/<uuid:task_id>/judgments/", api.JudgmentsView.as_view(), name="judgments_submit"),
    path("projects/<slug:slug>/sample/", sample_api.SampleApi.as_view(), name="sample"),
    path("samples/<uuid:job_id>/", sample_api.SampleJobApi.as_view(), name="sample_job"),
    path("judgments/<uuid:judgment_id>/", api.JudgmentView.as_view(), name="judgments_revise"),
    path("judgments/<uuid:judgment_id>/draft/", api.JudgmentDraftView.as_view(), name="judgments_draft"),
    path("projects/<slug:slug>/reviews/", trust_api.ReviewsApi.as_view(), name="reviews"),
    path("projects/<slug:slug>/trust/", trust_api.TrustApi.as_view(), name="trust"),
    path("projects/<slug:slug>/work/", trust_api.WorkApi.as_view(), name="work"),
    path("judgments/<uuid:judgment_id>/review/", trust_api.ReviewApi.as_view(), name="review"),
    path("tasks/<uuid:task_id>/gold/", trust_api.GoldApi.as_view(), name="gold"),
]
