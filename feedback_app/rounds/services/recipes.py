"""A project's recipes, one number after the other."""

from django.db import transaction
from django.db.models import Max

from feedback_app.accounts.models import User
from feedback_app.accounts.services import record_audit
from feedback_app.projects.models import Project
from feedback_app.rounds import recipes
from feedback_app.rounds.models import Recipe


@transaction.atomic
def publish_recipe(*, project: Project, recipe: recipes.Recipe, created_by: User | None = None) -> Recipe:
    """Make a recipe the project's newest; rounds already begun keep the one frozen into them."""
    Project.objects.select_for_update().only("id").get(pk=project.pk)
    newest = Recipe.objects.filter(project=project).aggregate(newest=Max("number"))["newest"] or 0
    made = Recipe.objects.create(project=project, number=newest + 1, config=recipe.as_json(), created_by=created_by)
    record_audit(actor=created_by, action="recipe.publish", subject=str(made.number), project_slug=project.slug)
    return made


def recipe_of(*, project: Project) -> Recipe:
    """Return the project's newest recipe; one that has none gets the quick preset."""
    found = Recipe.objects.filter(project=project).order_by("-number").first()
    return found or publish_recipe(
        project=project, recipe=recipes.parse_recipe(recipes.with_preset({"preset": "quick"}))
    )
