"""Pages of the datasets app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.datasets.views import browse, imports, versions

app_name = "datasets"
urlpatterns: list[URLPattern | URLResolver] = [
    path("p/<slug:slug>/data/", versions.data, name="data"),
    path("p/<slug:slug>/data/export/", versions.export, name="export"),
    path("p/<slug:slug>/data/versions/jobs/<uuid:version_job_id>/", versions.making, name="version_job"),
    path("p/<slug:slug>/data/versions/<int:number>/", versions.version, name="version"),
    path("p/<slug:slug>/data/browse/", browse.browse, name="browse"),
    path("p/<slug:slug>/data/figures/", browse.figures, name="figures"),
    path("p/<slug:slug>/data/figures/duplicates/", browse.look_for_duplicates, name="duplicates"),
    path("p/<slug:slug>/data/erase/", browse.erase, name="erase"),
    path("p/<slug:slug>/data/import/", imports.start, name="import_start"),
    path("p/<slug:slug>/data/import/<uuid:job_id>/", imports.show, name="import"),
    path("p/<slug:slug>/data/import/<uuid:job_id>/act/", imports.act, name="import_act"),
]
