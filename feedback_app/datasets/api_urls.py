"""API addresses of the datasets app, below /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.datasets import api, erasure_api

urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/<slug:slug>/imports/", api.ImportsView.as_view(), name="imports"),
    path("imports/<uuid:job_id>/", api.ImportView.as_view(), name="import"),
    path("imports/<uuid:job_id>/report/", api.ImportReportView.as_view(), name="import_report"),
    path("projects/<slug:slug>/export/", api.ExportView.as_view(), name="export"),
    path("projects/<slug:slug>/datasets/", api.DatasetVersionsView.as_view(), name="datasets"),
    path("datasets/jobs/<uuid:version_job_id>/", api.VersionJobView.as_view(), name="dataset_job"),
    path("datasets/<uuid:dataset_id>/", api.DatasetView.as_view(), name="dataset"),
    path("datasets/<uuid:dataset_id>/diff/", api.DatasetDiffView.as_view(), name="dataset_diff"),
    path("projects/<slug:slug>/erasures/", erasure_api.ErasuresView.as_view(), name="erasures"),
    path("datasets/<uuid:dataset_id>/download/", api.DatasetDownloadView.as_view(), name="dataset_download"),
]
