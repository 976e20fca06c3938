"""The recipe by which a project's rounds are made: as a form, as text, and every version there was."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds import recipes
from feedback_app.rounds.estimates import estimate_round
from feedback_app.rounds.hosts import living_hosts, suits
from feedback_app.rounds.models import Recipe, Trial
from feedback_app.rounds.recipe_form import RecipeForm
from feedback_app.rounds.recipe_text import changes, recipe_as_toml, with_operators, without_operators
from feedback_app.rounds.services import publish_recipe, recipe_of

VERSIONS = 20
PRESET_WORDS = {
    "quick": gettext_lazy("ten minutes on two cores with 135 million weights"),
    "smollm2": gettext_lazy("135 million weights, a longer run"),
    "1b": gettext_lazy("a billion weights, one GPU"),
    "7b": gettext_lazy("seven billion weights, large GPUs"),
}


class RecipeTextForm(forms.Form):
    """The whole recipe as TOML."""

    text = forms.CharField(label="TOML", widget=forms.Textarea({"rows": 24, "class": "code", "spellcheck": "false"}))


@require_safe
@project_page(Member.Role.REVIEWER)
def recipe(request: ProjectRequest) -> HttpResponse:
    """The newest recipe as a form; ?preset= fills it with a preset, and nothing is kept before it is saved."""
    current = recipe_of(project=request.project)
    return recipe_page(request, current, RecipeForm(config=_begun(request, current)))


@require_POST
@project_page(Member.Role.MANAGER)
def save(request: ProjectRequest) -> HttpResponse:
    """Make the next version of what the form says."""
    current = recipe_of(project=request.project)
    form = RecipeForm(request.POST, config=current.config)
    if form.is_valid():
        return _publish(request, form.cleaned_data["recipe"], current)
    return recipe_page(request, current, form, status=422)


def _begun(request: ProjectRequest, current: Recipe) -> dict[str, Any]:
    """Return the recipe that the form begins with: the current one, or a preset with what an operator had set."""
    preset = request.GET.get("preset", "")
    if preset not in recipes.PRESETS:
        return dict(current.config)
    fresh = recipes.parse_recipe(recipes.with_preset({"preset": preset})).as_json()
    return with_operators(fresh, without_operators(current.config)[1])


def costs_context(request: ProjectRequest, form: RecipeForm) -> dict[str, Any]:
    """Return what the form's recipe would take (None where it cannot be used), and the project's newest try."""
    if form.is_bound:
        wanted = form.cleaned_data["recipe"] if form.is_valid() else None
    else:
        wanted = recipes.parse_recipe(with_operators(form.config, form.kept), by_operator=True)
    trial = Trial.objects.filter(project=request.project).first()
    if wanted is None:
        return {"trial": trial}
    hosts = list(living_hosts())
    on_gpu = any(host.devices for host in hosts)
    found = estimate_round(project=request.project, recipe=wanted, on_gpu=on_gpu)
    return {"trial": trial, "estimate": found, "hosts": [(host, suits(host, found, wanted)) for host in hosts]}


def recipe_page(
    request: ProjectRequest, current: Recipe, form: RecipeForm, *, status: int = 200, refused: str = ""
) -> HttpResponse:
    """Return the page of a recipe in a form, saved or not."""
    context = costs_context(request, form) | {
        "refused": refused,
        "form": form,
        "current": current,
        "presets": [(name, PRESET_WORDS.get(name, "")) for name in recipes.PRESETS],
        "preset": request.GET.get("preset", ""),
        "versions": _versions(request),
        "tab": "recipe",
    }
    return render(request, "rounds/recipe.html", context, status=status)


def _versions(request: ProjectRequest) -> list[dict[str, Any]]:
    found = list(Recipe.objects.filter(project=request.project).select_related("created_by")[: VERSIONS + 1])
    rows = []
    for place, version in enumerate(found[:VERSIONS]):
        before = found[place + 1] if place + 1 < len(found) else None
        changed = changes(version.config, before.config) if before else []
        rows.append({"version": version, "changed": changed, "first": before is None})
    return rows


def _publish(request: ProjectRequest, wanted: recipes.Recipe, current: Recipe) -> HttpResponse:
    if wanted.as_json() == current.config:
        messages.info(request, _("Nothing was changed."))
    else:
        made = publish_recipe(project=request.project, recipe=wanted, created_by=request.user)
        messages.success(
            request, _("Recipe %(number)d is kept; the next round is made by it.") % {"number": made.number}
        )  # fmt: skip
    return redirect("rounds:recipe", request.project.slug)


@require_safe
@project_page(Member.Role.REVIEWER)
def text(request: ProjectRequest) -> HttpResponse:
    """The newest recipe as TOML, to read, to copy, or to change as a whole."""
    current = recipe_of(project=request.project)
    shown, _kept = without_operators(current.config)
    return _text_page(request, current, RecipeTextForm(initial={"text": recipe_as_toml(shown)}))


def _text_page(request: ProjectRequest, current: Recipe, form: RecipeTextForm, *, status: int = 200) -> HttpResponse:
    _shown, kept = without_operators(current.config)
    context = {"form": form, "current": current, "kept": recipe_as_toml(kept), "tab": "recipe"}
    return render(request, "rounds/recipe_text.html", context, status=status)


@require_POST
@project_page(Member.Role.MANAGER)
def save_text(request: ProjectRequest) -> HttpResponse:
    """Make the next version of the text."""
    current = recipe_of(project=request.project)
    form = RecipeTextForm(request.POST)
    if form.is_valid():
        _shown, kept = without_operators(current.config)
        try:
            # Read as a page's: it can set nothing that is an operator's. What one had set is laid over it after.
            given = recipes.parse_recipe_toml(form.cleaned_data["text"], by_operator=False)
            wanted = recipes.parse_recipe(with_operators(given.as_json(), kept), by_operator=True)
        except recipes.RecipeError as error:
            form.add_error("text", str(error))
        else:
            return _publish(request, wanted, current)
    return _text_page(request, current, form, status=422)


@require_safe
@project_page(Member.Role.REVIEWER)
def version(request: ProjectRequest, number: int) -> HttpResponse:
    """One version, as it was and stays."""
    found = get_object_or_404(Recipe.objects.select_related("created_by"), project=request.project, number=number)
    before = Recipe.objects.filter(project=request.project, number=number - 1).first()
    context = {
        "version": found,
        "toml": recipe_as_toml(found.config),
        "changed": changes(found.config, before.config) if before else [],
        "newest": recipe_of(project=request.project).number == number,
        "rounds": found.rounds.order_by("-number")[:VERSIONS],
        "tab": "recipe",
    }
    return render(request, "rounds/recipe_version.html", context)


@require_POST
@project_page(Member.Role.MANAGER)
def use_again(request: ProjectRequest, number: int) -> HttpResponse:
    """Make an older version the newest, under the next number."""
    found = get_object_or_404(Recipe, project=request.project, number=number)
    # It was checked when it was written, by an operator or a page.
    wanted = recipes.parse_recipe(found.config, by_operator=True)
    return _publish(request, wanted, recipe_of(project=request.project))
