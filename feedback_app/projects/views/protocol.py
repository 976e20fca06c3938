"""The protocol editor with its live preview, and the guidelines with theirs; both are followed by the next version."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from feedback_app.projects.forms import GuidelinesForm, preset_choices
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import GuidelinesVersion, Member, ProtocolVersion
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.projects.presets import PRESETS
from feedback_app.projects.protocol_forms import ProtocolEditor
from feedback_app.projects.protocols import RESERVED_LETTERS, Attribute, Protocol, parse_protocol
from feedback_app.projects.selectors import guidelines_versions, protocol_versions
from feedback_app.projects.services import publish_guidelines, publish_protocol

LETTERS = "ABCDEFGHI"


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def protocol(request: ProjectRequest) -> HttpResponse:
    """Show the protocol in force, a preset or an older version for editing; publish what is sent."""
    if request.method != "POST":
        spec = _spec_to_edit(request)
        return _protocol_page(request, ProtocolEditor(spec=spec), parse_protocol(spec))
    editor = ProtocolEditor(data=request.POST)
    if request.POST.get("do") in ("add_attribute", "add_flag"):
        return _protocol_page(request, editor, _shown(editor))
    if not editor.valid():
        return _protocol_page(request, editor, None, status=422)
    if request.POST.get("do") == "preview":
        return _protocol_page(request, editor, editor.protocol)
    assert editor.protocol is not None
    version = publish_protocol(project=request.project, protocol=editor.protocol, created_by=request.user)
    messages.success(
        request, _("Protocol %(number)d is in force for tasks given from now on.") % {"number": version.number}
    )
    return redirect("projects:protocol", request.project.slug)


def _spec_to_edit(request: ProjectRequest) -> dict[str, Any]:
    if (preset := request.GET.get("preset", "")) in PRESETS:
        return PRESETS[preset].as_json()
    if (number := request.GET.get("version", "")).isdecimal():
        spec: dict[str, Any] = get_object_or_404(ProtocolVersion, project=request.project, number=int(number)).spec
        return spec
    current = request.project.protocol
    return current.spec if current is not None else PRESETS["pairwise"].as_json()


def _shown(editor: ProtocolEditor) -> Protocol | None:
    """Return the protocol as it stands for the preview, None while it cannot be read."""
    return editor.protocol if editor.valid() else None


def _protocol_page(
    request: ProjectRequest, editor: ProtocolEditor, shown: Protocol | None, *, status: int = 200
) -> HttpResponse:
    context = {
        "editor": editor,
        "presets": preset_choices(),
        "versions": protocol_versions(project=request.project),
        "reserved": ", ".join(sorted(RESERVED_LETTERS)),
        **_preview(shown),
    }
    return render(request, "projects/protocol.html", context, status=status)


def _preview(shown: Protocol | None) -> dict[str, Any]:
    """Return what the preview of the verdict panel is drawn from."""
    if shown is None:
        return {"shown": None}
    language = get_language()  # as an annotator who reads the manager's language would see it
    return {
        "shown": shown,
        "letters": LETTERS[: shown.max_responses],
        "steps": _strength_steps(shown, language),
        "scores": [
            {"attribute": part, "label": shown.label_of(part, language),
             "steps": _anchored_steps(shown, part, language)}
            for part in shown.attributes
        ],
        "flags": [
            {"flag": flag, "label": shown.label_of(flag, language),
             "description": shown.translated(flag.description, language)}
            for flag in shown.flags
        ],
    }  # fmt: skip


def _strength_steps(shown: Protocol, language: str | None) -> list[tuple[int, str]]:
    """Return the steps of strength with what each is called, of both sides where they are one scale."""
    words = shown.strength_steps(language)
    if not shown.two_sided:
        return list(enumerate(words))
    return [(side, f"{LETTERS[side > 0]}: {words[abs(side)]}" if side else words[0]) for side in shown.sides()]


def _anchored_steps(shown: Protocol, attribute: Attribute, language: str | None) -> list[tuple[int, str]]:
    steps = range(attribute.minimum, attribute.maximum + 1)
    return [(step, shown.translated(attribute.anchors.get(str(step), ""), language)) for step in steps]


@require_POST
@project_page(Member.Role.MANAGER)
def protocol_preview(request: ProjectRequest) -> HttpResponse:
    """The preview alone, of a protocol that is being typed."""
    editor = ProtocolEditor(data=request.POST)
    return render(request, "projects/_protocol_preview.html", {"editor": editor, **_preview(_shown(editor))})


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def guidelines(request: ProjectRequest) -> HttpResponse:
    """The guidelines in force, for editing; a new version is shown to everybody once more."""
    if request.method != "POST":
        current = _guidelines_to_edit(request)
        initial = {"text": current.text if current else ""}
        initial |= {f"text_{code}": text for code, text in (current.translations if current else {}).items()}
        return _guidelines_page(request, GuidelinesForm(initial=initial), initial["text"])
    form = GuidelinesForm(request.POST)
    if not form.is_valid():
        return _guidelines_page(request, form, "", status=422)
    if request.POST.get("do") == "preview":
        return _guidelines_page(request, form, form.cleaned_data["text"])
    version = publish_guidelines(
        project=request.project,
        text=form.cleaned_data["text"],
        translations=form.translations(),
        created_by=request.user,
    )
    messages.success(
        request, _("Guidelines %(number)d are in force; everybody is shown them once.") % {"number": version.number}
    )
    return redirect("projects:guidelines", request.project.slug)


def _guidelines_to_edit(request: ProjectRequest) -> GuidelinesVersion | None:
    if (number := request.GET.get("version", "")).isdecimal():
        return get_object_or_404(GuidelinesVersion, project=request.project, number=int(number))
    return request.project.guidelines


def _guidelines_page(request: ProjectRequest, form: GuidelinesForm, text: str, *, status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "preview": render_markdown(text),
        "versions": guidelines_versions(project=request.project),
    }
    return render(request, "projects/guidelines.html", context, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def guidelines_preview(request: ProjectRequest) -> HttpResponse:
    """The rendered text alone, as it is being typed."""
    preview = render_markdown(request.POST.get("text", ""))
    return render(request, "projects/_guidelines_preview.html", {"preview": preview})
