"""Pages of the projects app."""

from django.urls import URLPattern, URLResolver, path

from feedback_app.projects.views import people, protocol, settings

app_name = "projects"
urlpatterns: list[URLPattern | URLResolver] = [
    path("projects/new/", settings.new_project, name="new"),
    path("join/<str:token>/", people.join, name="join"),
    path("p/<slug:slug>/settings/", settings.settings, name="settings"),
    path("p/<slug:slug>/settings/protocol/", protocol.protocol, name="protocol"),
    path("p/<slug:slug>/settings/protocol/preview/", protocol.protocol_preview, name="protocol_preview"),
    path("p/<slug:slug>/settings/guidelines/", protocol.guidelines, name="guidelines"),
    path("p/<slug:slug>/settings/guidelines/preview/", protocol.guidelines_preview, name="guidelines_preview"),
    path("p/<slug:slug>/settings/people/", people.people, name="people"),
    path("p/<slug:slug>/settings/people/add/", people.add_existing, name="people_add"),
    path("p/<slug:slug>/settings/people/new/", people.add_new, name="people_new"),
    path("p/<slug:slug>/settings/people/invite/", people.invite, name="people_invite"),
    path("p/<slug:slug>/settings/people/links/<uuid:invitation_id>/", people.take_back, name="people_take_back"),
    path("p/<slug:slug>/settings/people/<int:member_id>/", people.change, name="people_change"),
]
