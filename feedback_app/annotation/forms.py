"""Forms of the pages of tasks and quality."""

from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Value
from django.utils.translation import gettext_lazy as _

from feedback_app.accounts.models import User
from feedback_app.annotation.browsing import TaskFilter
from feedback_app.annotation.models import Prompt, Task
from feedback_app.annotation.splits import ConversationError, parse_conversation
from feedback_app.projects.models import GuidelinesVersion, Project, ProtocolVersion

EVERY = ("", _("all"))
BULK = (
    ("priority", _("Set priority to")),
    ("overlap", _("Ask for judgments:")),
    ("archive", _("Archive")),
    ("restore", _("Put back into the queue")),
)
MOST_AT_ONCE = 10_000


class TaskFilterForm(forms.Form):
    """What the list of tasks is narrowed to; an unknown choice narrows nothing and says so."""

    words = forms.CharField(label=_("Words of the prompt"), required=False)
    state = forms.ChoiceField(label=_("State"), choices=[EVERY, *Task.State.choices], required=False)
    kind = forms.ChoiceField(label=_("Kind"), choices=[EVERY, *Task.Kind.choices], required=False)
    judged = forms.ChoiceField(
        label=_("Judged"), required=False,
        choices=[EVERY, ("none", _("not yet")), ("some", _("in part")), ("all", _("as often as asked"))],
    )  # fmt: skip
    policy = forms.ChoiceField(label=_("Policy version"), required=False)
    split = forms.ChoiceField(label=_("Split"), choices=[EVERY, *Prompt.Split.choices], required=False)
    priority = forms.IntegerField(label=_("Priority"), required=False, min_value=-32768, max_value=32767)

    def __init__(self, *args: Any, policies: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["policy"].choices = [EVERY, *((name, name) for name in policies)]  # type: ignore[attr-defined]

    def chosen(self) -> TaskFilter:
        """Return the filter; fields in error narrow nothing."""
        self.full_clean()
        given = {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
        return TaskFilter(**given)


class BulkForm(forms.Form):
    """One change to many tasks: the ticked ones, or all that the filter lists."""

    do = forms.ChoiceField(label=_("Change"), choices=BULK)
    number = forms.IntegerField(label=_("Number"), required=False, min_value=-100, max_value=100)
    every = forms.BooleanField(label=_("all that are listed, on every page"), required=False)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("do") in ("priority", "overlap") and given.get("number") is None:
            self.add_error("number", _("This change needs a number."))
        if given.get("do") == "overlap" and (given.get("number") or 0) < 1:
            self.add_error("number", _("At least one judgment is asked of a task."))
        return given


def ticked(values: list[str]) -> list[UUID]:
    """Return the ids of ticked boxes; what is no id was no box of ours."""
    ids = []
    for value in values[:MOST_AT_ONCE]:
        try:
            ids.append(UUID(value))
        except ValueError:
            continue
    return ids


class SampleForm(forms.Form):
    """How many prompts to sample now."""

    prompts = forms.IntegerField(label=_("Prompts to sample"), initial=20, min_value=1, max_value=10_000)


class PromptsForm(forms.Form):
    """Prompts pasted, one a line, or whole with empty lines between."""

    text = forms.CharField(
        label=_("Prompts"), strip=False, widget=forms.Textarea({"rows": 8}),
        help_text=_("one a line; or, with the box ticked, several lines each and an empty line between two"),
    )  # fmt: skip
    blocks = forms.BooleanField(label=_("An empty line ends a prompt"), required=False)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        text = (given.get("text") or "").replace("\r\n", "\n")
        parts = text.split("\n\n") if given.get("blocks") else text.split("\n")
        given["prompts"] = [part.strip() for part in parts if part.strip()]
        try:
            for prompt in given["prompts"]:
                parse_conversation(prompt)
        except ConversationError as error:
            self.add_error("text", str(error))
        if not given["prompts"] and "text" not in self.errors:
            self.add_error("text", _("There is no prompt in it."))
        return given


class VoidForm(forms.Form):
    """Why judgments are voided, and which: a person's, of a time, under a version of guidelines or protocol."""

    annotator = forms.ModelChoiceField(label=_("Judgments of"), queryset=User.objects.none(), required=False)
    since = forms.DateTimeField(
        label=_("From"), required=False, widget=forms.DateTimeInput({"type": "datetime-local"}), help_text=_("UTC")
    )
    until = forms.DateTimeField(
        label=_("Until"), required=False, widget=forms.DateTimeInput({"type": "datetime-local"}), help_text=_("UTC")
    )
    guidelines = forms.ChoiceField(label=_("Under guidelines"), required=False)
    protocol = forms.ChoiceField(label=_("Under protocol"), required=False)
    reason = forms.CharField(label=_("Reason"), max_length=300, help_text=_("kept with each judgment"))

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project = project
        people: Any = self.fields["annotator"]
        people.queryset = User.objects.filter(judgments__project=project).distinct().order_by("kind", "username")
        people.empty_label = _("everybody")
        numbers = _version_numbers(project)
        for name in ("guidelines", "protocol"):
            choices: Any = self.fields[name]
            choices.choices = [("", _("every version")), *((n, n) for kind, n in numbers if kind == name)]

    def clean_guidelines(self) -> GuidelinesVersion | None:
        """Return the version of the chosen number."""
        number = self.cleaned_data["guidelines"]
        return GuidelinesVersion.objects.get(project=self.project, number=number) if number else None

    def clean_protocol(self) -> ProtocolVersion | None:
        """Return the version of the chosen number."""
        number = self.cleaned_data["protocol"]
        return ProtocolVersion.objects.get(project=self.project, number=number) if number else None


def _version_numbers(project: Project) -> list[tuple[str, int]]:
    """Return ("guidelines" or "protocol", number) of every version, the newest first, in one query."""
    guidelines, protocols = (
        versions.order_by().values_list(Value(kind), "number")
        for kind, versions in (("guidelines", project.guidelines_versions), ("protocol", project.protocol_versions))
    )
    return list(guidelines.union(protocols).order_by("-number"))


class DaysForm(forms.Form):
    """From which day up to and with which; an empty one leaves that end open."""

    since = forms.DateField(label=_("From"), required=False, widget=forms.DateInput({"type": "date"}))
    until = forms.DateField(label=_("Until"), required=False, widget=forms.DateInput({"type": "date"}))
