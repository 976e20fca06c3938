"""The judging page, and what only it asks the server: tasks with their texts as safe HTML, what was read, its keys."""

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from feedback_app.accounts.models import User
from feedback_app.accounts.services import set_keymap
from feedback_app.annotation import services
from feedback_app.annotation.api import NOTHING, LenientView, caller, read_hold, read_object
from feedback_app.annotation.errors import VerdictInvalid
from feedback_app.annotation.views.judging_words import returned_words, words
from feedback_app.annotation.work import (
    judged_today,
    judgment_to_revise,
    newest_guidelines,
    sent_back_to,
    unread_guidelines,
)
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import GuidelinesVersion, Member, Project
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.projects.permissions import get_project_for
from feedback_app.projects.services import mark_guidelines_read


@require_GET
@project_page(Member.Role.ANNOTATOR)
def judge(request: ProjectRequest) -> HttpResponse:
    """Show the page; its script fetches the first task, for a GET must not reserve one."""
    project, user = request.project, request.user
    get_token(request)  # the script sends it back with every request
    page = {
        "slug": project.slug,
        "user": str(user.public_id),
        "username": user.username,
        "language": get_language(),
        "today": judged_today(user=user, project=project),
        "returned": returned_words(sent_back_to(user=user, project=project)),
        "keymap": user.keymap,
        "urls": {
            "next": reverse("annotation:judge_next", args=[project.slug]),
            "judgment": reverse("annotation:judge_judgment", args=[project.slug, UUID(int=0)]),
            "guidelines": reverse("annotation:judge_guidelines", args=[project.slug]),
            "keys": reverse("annotation:judge_keys", args=[project.slug]),
            "page": reverse("annotation:judge", args=[project.slug]),
            "history": reverse("annotation:history", args=[project.slug]),
            "login": reverse("accounts:login"),
        },
        "guidelines": str(project.guidelines_id or ""),
        "words": words(),
    }
    return render(
        request,
        "annotation/judge.html",
        {
            "page": page,
            "guidelines": guidelines_html(project.guidelines),
            "guidelines_unread": unread_guidelines(user=user, project=project),
        },
    )


def guidelines_html(guidelines: GuidelinesVersion | None) -> str:
    """Return guidelines as safe HTML, in the reader's language where there is a translation."""
    if guidelines is None:
        return ""
    return render_markdown(guidelines.translations.get(get_language() or "") or guidelines.text)


def with_html(task: dict[str, Any]) -> dict[str, Any]:
    """Return the API's task with each message and response rendered beside its text."""
    return task | {
        "prompt": {"messages": [message | {"html": _html(message)} for message in task["prompt"]["messages"]]},
        "responses": [response | {"html": render_markdown(response["text"])} for response in task["responses"]],
    }


def _html(message: dict[str, Any]) -> str:
    return render_markdown(str(message["content"]))


class NextTaskView(LenientView):
    """The API's next task, with what only a page needs."""

    @extend_schema(exclude=True)
    def post(self, request: Request, slug: str) -> Response:
        """Answer as the API does, with HTML beside every text and the newest guidelines' number."""
        user = caller(request)
        found = services.next_task(project=slug, annotator=user, hold=read_hold(request))
        if found is None:
            return Response(status=NOTHING)
        return Response(with_html(found.as_json()) | {"guidelines": newest_guidelines(slug=slug, user=user)})


class JudgmentView(LenientView):
    """One's own judgment, to be edited."""

    @extend_schema(exclude=True)
    def get(self, request: Request, slug: str, judgment_id: UUID) -> Response:
        """Answer the judgment with its task as it was shown."""
        user = caller(request)
        found = judgment_to_revise(user=user, project=_own_project(user, slug), judgment_id=judgment_id)
        if found is None:
            raise NotFound(_("There is no such judgment of yours in this project."))
        return Response(with_html(found))


class GuidelinesView(LenientView):
    """The newest guidelines, and that they were read."""

    @extend_schema(exclude=True)
    def get(self, request: Request, slug: str) -> Response:
        """Answer the newest guidelines as safe HTML."""
        guidelines = _own_project(caller(request), slug).guidelines
        return Response({"id": str(guidelines.pk) if guidelines else "", "html": guidelines_html(guidelines)})

    @extend_schema(exclude=True)
    def post(self, request: Request, slug: str) -> Response:
        """Remember that the caller has read the version named in the body."""
        user = caller(request)
        project = _own_project(user, slug)
        wanted = str(read_object(request, "id").get("id", ""))
        ids = {str(pk): pk for pk in project.guidelines_versions.values_list("pk", flat=True)}
        if wanted not in ids:
            raise NotFound(_("There are no such guidelines in this project."))
        mark_guidelines_read(guidelines=project.guidelines_versions.get(pk=ids[wanted]), user=user)
        return Response(status=NOTHING)


class KeysView(LenientView):
    """The caller's own keys."""

    @extend_schema(exclude=True)
    def put(self, request: Request, slug: str) -> Response:
        """Keep which key does what: an object of actions, each with the key's place on the keyboard."""
        user = caller(request)
        _own_project(user, slug)
        keymap = read_object(request)
        try:
            set_keymap(user=user, keymap=keymap)
        except ValueError as error:
            raise VerdictInvalid({"keymap": [str(error)]}) from error
        return Response(status=NOTHING)


def _own_project(user: User, slug: str) -> Project:
    return get_project_for(user, slug, Member.Role.ANNOTATOR)
