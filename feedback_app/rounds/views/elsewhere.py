"""Registering a policy made elsewhere, and putting one to the gates again."""

from pathlib import Path
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from feedback_app.projects.models import Member, Project
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds.bells import ring_round
from feedback_app.rounds.model_places import allowed_folders, find_models
from feedback_app.rounds.services import RoundRefused, evaluate_elsewhere, register_elsewhere
from feedback_app.serving.models import PolicyVersion
from feedback_app.serving.selectors import deployment_of, policies_of


class RegisterForm(forms.Form):
    """Which of the models found below the allowed folders, what it was made of, and how."""

    directory = forms.ChoiceField(label=gettext_lazy("Model"))
    parent = forms.ChoiceField(
        label=gettext_lazy("Made from"), required=False,
        help_text=gettext_lazy("its place in the tree; whatever it came of, it is measured beside the live version"),
    )  # fmt: skip
    also_from = forms.MultipleChoiceField(
        label=gettext_lazy("And from"), required=False, widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("of a merge, say"),
    )  # fmt: skip
    note = forms.CharField(
        label=gettext_lazy("How it was made"), max_length=2000, required=False, widget=forms.Textarea({"rows": 3})
    )
    evaluate = forms.BooleanField(
        label=gettext_lazy("Put it to the gates at once; it goes live where they hold"), required=False, initial=True
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        versions = [(str(policy.pk), policy.name) for policy in policies_of(project=project)]
        self.models = [str(place) for place in find_models()]
        self.chosen("directory").choices = [("", _("choose one")), *((place, place) for place in self.models)]
        self.chosen("parent").choices = [("", _("not known")), *versions]
        self.chosen("also_from").choices = versions

    def chosen(self, name: str) -> forms.ChoiceField:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        return field

    def parents(self) -> list[PolicyVersion]:
        """Return the versions that were named, the main one first."""
        named = dict.fromkeys(pk for pk in (self.cleaned_data["parent"], *self.cleaned_data["also_from"]) if pk)
        known = {str(policy.pk): policy for policy in PolicyVersion.objects.filter(pk__in=named)}
        return [known[pk] for pk in named]


@require_http_methods(["GET", "HEAD", "POST"])
@project_page(Member.Role.MANAGER)
def register(request: ProjectRequest) -> HttpResponse:
    """Choose a model, and start the round that takes it in."""
    if request.method != "POST":
        deployment = deployment_of(project=request.project)
        initial = {"parent": str(deployment.live_id) if deployment else ""}
        return _register_page(request, RegisterForm(project=request.project, initial=initial))
    form = RegisterForm(request.POST, project=request.project)
    if form.is_valid():
        try:
            held = register_elsewhere(
                project=request.project,
                directory=Path(form.cleaned_data["directory"]),
                parents=form.parents(),
                note=form.cleaned_data["note"],
                evaluate=form.cleaned_data["evaluate"],
                created_by=request.user,
            )
        except RoundRefused as refused:
            form.add_error(None, str(refused))
        else:
            ring_round(held.pk)
            return redirect("rounds:round", request.project.slug, held.number)
    return _register_page(request, form, status=422)


def _register_page(request: ProjectRequest, form: RegisterForm, status: int = 200) -> HttpResponse:
    context = {"form": form, "folders": allowed_folders(), "found": bool(form.models)}
    return render(request, "rounds/register.html", context, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def evaluate(request: ProjectRequest, number: int) -> HttpResponse:
    """Start the round that puts a registered policy to the gates."""
    policy = get_object_or_404(PolicyVersion, project=request.project, number=number)
    policy.project = request.project
    try:
        held = evaluate_elsewhere(policy=policy, created_by=request.user)
    except RoundRefused as refused:
        messages.error(request, str(refused))
        return redirect("rounds:policy", request.project.slug, number)
    ring_round(held.pk)
    return redirect("rounds:round", request.project.slug, held.number)
