"""Policies: the tree of versions with what made each, one version whole, and its files to take away.

Pages of this app and not of serving: what they tell of a version is the round, the recipe and the data behind it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from feedback_app.datasets.exporting.writing import Drain
from feedback_app.projects.markdown import render_markdown
from feedback_app.projects.models import Member
from feedback_app.projects.pages import ProjectRequest, project_page
from feedback_app.rounds import reports
from feedback_app.rounds.curves import charts_of
from feedback_app.rounds.model_cards import write_model_card
from feedback_app.rounds.models import Round
from feedback_app.rounds.policy_tree import tree_of, versions_with_origin
from feedback_app.rounds.retention import CLEARED, CLEARING, pin_policy
from feedback_app.rounds.selectors import active_round
from feedback_app.serving.artifacts import bring_here
from feedback_app.serving.models import PolicyVersion, Push
from feedback_app.serving.selectors import deployment_of, family, pushes_of
from training.records import MANIFEST, DataError, verify_manifest

PUSHES = 8
HEARD_WITHIN = timedelta(seconds=10)
WAITS_FOR = timedelta(minutes=2)
ANSWERS = 12


@require_safe
@vary_on_headers("HX-Request")
@project_page(Member.Role.REVIEWER)
def policies(request: ProjectRequest) -> HttpResponse:
    """The tree of versions, what is live, and how the newest pushes went."""
    pushes = list(pushes_of(project=request.project)[:PUSHES])
    asked = _asked(request)
    awaited = asked is not None and not any(push.created_at >= asked for push in pushes)
    context = {
        "pushes": pushes,
        "pushing": awaited or any(push.state == Push.State.RUNNING for push in pushes),
        "asked": request.GET.get("asked", "") if awaited else "",
        "unheard": awaited and asked is not None and timezone.now() - asked > HEARD_WITHIN,
        "deployment": deployment_of(project=request.project),
    }
    if request.htmx:
        # Once it has ended, what is live may be another version: the whole page says so.
        if not context["pushing"]:
            return HttpResponse(headers={"HX-Redirect": request.path})
        return render(request, "rounds/_pushes.html", context)
    rows, width = tree_of(list(versions_with_origin(project=request.project)))
    context |= {"rows": rows, "width": width, "active": active_round(project=request.project)}
    return render(request, "rounds/policies.html", context)


def _asked(request: ProjectRequest) -> datetime | None:
    """Return when the push was asked for that the page waits to see; long after, it waits no more."""
    try:
        asked = datetime.fromtimestamp(float(request.GET.get("asked", "")), tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return asked if timezone.now() - asked < WAITS_FOR else None


def _policy(request: ProjectRequest, number: int) -> tuple[PolicyVersion, Round | None]:
    policy = get_object_or_404(PolicyVersion.objects.select_related("parent"), project=request.project, number=number)
    policy.project = request.project
    related = ("dataset", "recipe", "parent", "created_by")
    rounds = Round.objects.select_related(*related).prefetch_related("steps")
    if policy.source == PolicyVersion.Source.REGISTERED:  # no round made it; the newest one has judged it last
        return policy, rounds.filter(policy=policy).order_by("-number").first()
    return policy, rounds.filter(pk=policy.round_id).first() if policy.round_id else None


@require_safe
@project_page(Member.Role.REVIEWER)
def policy(request: ProjectRequest, number: int) -> HttpResponse:
    """One version: where it comes from, how it did beside its parent, and its card."""
    found, made_by = _policy(request, number)
    before = reports.round_before(made_by) if made_by else None
    context = {
        "policy": found,
        "made_by": made_by,
        "before": before,
        "line": family(policy=found),
        "children": found.children.union(found.also_children.all()).order_by("number"),
        "also_from": found.also_from.order_by("number"),
        "deployment": deployment_of(project=request.project),
        "figures": reports.evaluation_figures(found.evaluation),
        "parents_figures": reports.beside(found.evaluation, found.parent.evaluation if found.parent else {}),
        "charts": charts_of(held=made_by, parent=before) if made_by else [],
        "gate": reports.gate_rows(made_by) if made_by else [],
        "answers": reports.evaluation_answers(made_by)[:ANSWERS] if made_by else [],
        "card": render_markdown(_without_head(write_model_card(found, made_by))),
        "pushes": found.pushes.select_related("requested_by")[:PUSHES],
        "has_files": bool(_files(found)),
    }
    return render(request, "rounds/policy.html", context)


def _without_head(card: str) -> str:
    """Return the card without the lines for a hub, and without its title, which the page has."""
    return card.split("---\n", 2)[2].split("\n", 1)[1]


@require_POST
@project_page(Member.Role.MANAGER)
def pin(request: ProjectRequest, number: int) -> HttpResponse:
    """Keep the version's weights whatever the rule says, or leave them to it again."""
    found, _made_by = _policy(request, number)
    pin_policy(policy=found, pinned=request.POST.get("pinned") == "true", actor=request.user)
    return redirect("rounds:policy", request.project.slug, number)


@require_safe
@project_page(Member.Role.REVIEWER)
def card(request: ProjectRequest, number: int) -> HttpResponse:
    """The model card as a file."""
    found, made_by = _policy(request, number)
    answer = HttpResponse(write_model_card(found, made_by), content_type="text/markdown; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{found.name}.md"'
    return answer


@require_safe
@project_page(Member.Role.MANAGER)
def download(request: ProjectRequest, number: int) -> HttpResponseBase:
    """The version's files as a ZIP archive, with its card: a folder that transformers loads."""
    found, made_by = _policy(request, number)
    if not _is_kept(found):
        raise Http404
    try:
        bring_here(found.directory)  # weights that were cleared away here lie in the store, where one is configured
        verify_manifest(found.directory)
    except DataError as error:
        messages.error(request, str(error))
        return redirect("rounds:policy", request.project.slug, number)
    answer = StreamingHttpResponse(
        _archive(_files(found), write_model_card(found, made_by)), content_type="application/zip"
    )  # fmt: skip
    answer["Content-Disposition"] = f'attachment; filename="{found.name}.zip"'
    return answer


def _is_kept(policy: PolicyVersion) -> bool:
    """Say whether a trainer made the version and its files were not cleared away for good."""
    return (Path(policy.directory) / MANIFEST).is_file() and policy.withheld not in (CLEARING, CLEARED)


def _files(policy: PolicyVersion) -> dict[str, Path]:
    """Return what a trainer left of a version by name in an archive; checkpoints and samples stay here."""
    if not _is_kept(policy):
        return {}
    directory = Path(policy.directory)
    model = {path.name: path for path in sorted((directory / "model").glob("*")) if path.is_file()}
    beside = {name: directory / name for name in ("config.toml", "metrics.json", "canary.json", MANIFEST)}
    return model | {f"training/{name}": path for name, path in beside.items() if path.is_file()} if model else {}


def _archive(files: dict[str, Path], card: str) -> Iterator[bytes]:
    """Yield a ZIP archive piece by piece; weights are packed as they are, for they hardly shrink."""
    drain = Drain()
    with ZipFile(drain, "w", ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("README.md", card)
        for name, path in files.items():
            with path.open("rb") as source, archive.open(name, "w", force_zip64=True) as member:
                while piece := source.read(2**20):
                    member.write(piece)
                    yield drain.take()
    yield drain.take()
