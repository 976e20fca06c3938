"""Forms of the settings pages; and what all forms share: a service's ValidationError is shown at the field it names."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.utils.translation import gettext_lazy as _

from feedback_app.accounts.models import User
from feedback_app.projects.invitations import LONGEST_DAYS
from feedback_app.projects.models import SLUG_PATTERN, Member, Project
from feedback_app.projects.presets import PRESETS
from feedback_app.projects.services import SETTINGS

PRESET_LABELS = {
    "pairwise": _("Two answers: which is better, and by how much if you like"),
    "pairwise-strength": _("Two answers: which is better, and by how much"),
    "helpsteer": _("Two answers on one scale from -3 to 3, with reasons (HelpSteer)"),
    "ranking": _("Two to nine answers: rank them all"),
    "ranking-partial": _("Two to nine answers: rank the ones that matter"),
    "ratings": _("Scores of five attributes (HelpSteer2)"),
    "instructgpt": _("Ranking, overall quality and flags (InstructGPT)"),
    "rewrite": _("Two answers: which is better, and a better one of your own"),
}


def add_errors(form: forms.BaseForm, error: ValidationError) -> None:
    """Put a service's reasons at the form's fields; those of no field of it stand above the form, named."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for name, reasons in error.message_dict.items():
        if name in form.fields:
            form.add_error(name, ValidationError(reasons))
        elif name == NON_FIELD_ERRORS:
            form.add_error(None, ValidationError(reasons))
        else:
            form.add_error(None, ValidationError([f"{name}: {reason}" for reason in reasons]))


def preset_choices() -> list[tuple[str, Any]]:
    """Return the protocols that we ship, each with what it asks."""
    return [(name, PRESET_LABELS.get(name, name)) for name in PRESETS]


class SettingsForm(forms.ModelForm[Project]):
    """Every setting of a project, in the groups of the page."""

    GROUPS = (
        (_("Project"), ("name", "description", "language")),
        (
            _("Distribution"),
            (
                "overlap", "extra_overlap", "extra_overlap_share", "third_on_disagreement", "daily_limit",
                "reservation_seconds",
            ),
        ),
        (
            _("Sampling"),
            (
                "responses_per_prompt", "temperature", "top_p", "max_new_tokens", "refill_per_annotator", "old_tasks",
            ),
        ),
        (
            _("Trust"),
            (
                "gold_share", "repeat_share", "qualification_pass", "pause_gold_below", "pause_consistency_below",
                "pause_seconds_below", "pause_after",
            ),
        ),
    )  # fmt: skip

    class Meta:
        model = Project
        fields = SETTINGS
        widgets = {"description": forms.Textarea({"rows": 2})}
        labels = {
            "name": _("Name"),
            "description": _("What it is about"),
            "language": _("Language of the prompts"),
            "overlap": _("Judgments of each task"),
            "extra_overlap": _("Judgments of some tasks"),
            "extra_overlap_share": _("Share of those tasks"),
            "third_on_disagreement": _("Ask a third person when two disagree"),
            "daily_limit": _("Most judgments a day of one person"),
            "reservation_seconds": _("Seconds that a task is held"),
            "responses_per_prompt": _("Answers to a prompt"),
            "temperature": _("Temperature"),
            "top_p": _("Top p"),
            "max_new_tokens": _("Longest answer, in tokens"),
            "refill_per_annotator": _("Tasks kept ready for each annotator"),
            "old_tasks": _("Untouched tasks of an older policy"),
            "gold_share": _("Share of gold tasks"),
            "repeat_share": _("Share of repeats"),
            "qualification_pass": _("Score that qualifies"),
            "pause_gold_below": _("Pause when gold falls below"),
            "pause_consistency_below": _("Pause when consistency falls below"),
            "pause_seconds_below": _("Pause when faster than, in seconds"),
            "pause_after": _("Newest judgments that decide a pause"),
        }
        help_texts = {
            "overlap": _("New tasks take this; those that stand keep theirs (change them under Tasks)."),
            "reservation_seconds": _("Longer while the page is in use; then the task goes back to the queue."),
            "language": _("a tag, such as en or zh-Hans"),
            "old_tasks": _("when another policy goes live"),
            "pause_gold_below": _("share right, 0 to 1; empty: never"),
            "pause_consistency_below": _("share of repeats answered alike; empty: never"),
            "pause_seconds_below": _("median of a judgment; empty: never"),
            "temperature": "",
            "extra_overlap": _("empty: every task gets the same"),
            "extra_overlap_share": _("of new tasks, 0 to 1"),
            "third_on_disagreement": "",
            "daily_limit": _("empty: no limit"),
            "gold_share": _("of the tasks that are given, 0 to 1"),
            "repeat_share": _("given again with the answers swapped, 0 to 1"),
            "qualification_pass": _("0 to 1, on the qualification tasks; empty: nobody is tested"),
            "refill_per_annotator": _("sampled by itself; 0: only when asked"),
            "pause_after": "",
        }

    def groups(self) -> list[tuple[Any, list[forms.BoundField]]]:
        """Return the page's groups with their fields; a setting of no group is shown last."""
        grouped = {name for _title, names in self.GROUPS for name in names}
        rest = tuple(name for name in self.fields if name not in grouped)
        groups = [*self.GROUPS, (_("More"), rest)] if rest else self.GROUPS
        return [(title, [self[name] for name in names if name in self.fields]) for title, names in groups]


class NewProjectForm(forms.Form):
    """What a project needs to begin; the rest is set later."""

    name = forms.CharField(label=_("Name"), max_length=120)
    slug = forms.RegexField(
        SLUG_PATTERN, label=_("Name in addresses"), help_text=_("small letters, digits and dashes; it stays for ever")
    )
    language = forms.CharField(
        label=_("Language of the prompts"), initial="en", max_length=16, help_text=_("a tag, such as en or zh-Hans")
    )
    protocol = forms.ChoiceField(
        label=_("What annotators are asked"), choices=preset_choices, widget=forms.RadioSelect, initial="pairwise"
    )
    overlap = forms.IntegerField(label=_("Judgments of each task"), initial=1, min_value=1, max_value=100)


class GuidelinesForm(forms.Form):
    """How to judge, in Markdown, and the same in the other languages of the pages."""

    text = forms.CharField(
        label=_("Guidelines"), required=False, widget=forms.Textarea({"rows": 16}), help_text=_("Markdown")
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for code, name in settings.LANGUAGES:
            if code != settings.LANGUAGE_CODE:
                self.fields[f"text_{code}"] = forms.CharField(
                    label=_("In %(language)s") % {"language": name}, required=False,
                    widget=forms.Textarea({"rows": 8, "lang": code}), help_text=_("empty: the text above is shown"),
                )  # fmt: skip

    def translations(self) -> dict[str, str]:
        """Return what was written in other languages, by code."""
        return {
            name.removeprefix("text_"): text
            for name, text in self.cleaned_data.items()
            if name.startswith("text_") and text.strip()
        }


class AddMemberForm(forms.Form):
    """Give somebody who has an account a role."""

    username = forms.CharField(label=_("User name"), widget=forms.TextInput({"autocomplete": "off"}))
    role = forms.ChoiceField(label=_("Role"), choices=Member.Role.choices)

    def clean_username(self) -> User:
        """Return the user of that name."""
        name = self.cleaned_data["username"]
        user = User.objects.filter(username=name, is_active=True).exclude(kind=User.Kind.IMPORTED).first()
        if user is None:
            raise ValidationError(_("Nobody here is called that. Make an account, or send an invitation."))
        return user


class NewUserForm(forms.Form):
    """An account for somebody; its first password is made for them and shown once."""

    username = forms.CharField(label=_("User name"), max_length=150, widget=forms.TextInput({"autocomplete": "off"}))
    display_name = forms.CharField(label=_("Name"), max_length=150, required=False)
    role = forms.ChoiceField(label=_("Role"), choices=Member.Role.choices)


class InvitationForm(forms.Form):
    """For whom a link is, how long and how often it opens."""

    role = forms.ChoiceField(label=_("Role"), choices=Member.Role.choices)
    days = forms.IntegerField(label=_("Days it opens"), initial=7, min_value=1, max_value=LONGEST_DAYS)
    uses = forms.IntegerField(
        label=_("People it is for"), initial=1, min_value=1, required=False, help_text=_("empty: as many as come")
    )
    note = forms.CharField(label=_("Note"), max_length=100, required=False, help_text=_("for yourself"))


class JoinForm(forms.Form):
    """An account of one's own, made by an invitation."""

    username = forms.CharField(
        label=_("User name"), max_length=150, help_text=_("letters, digits and @ . + - _"),
        widget=forms.TextInput({"autocomplete": "username"}),
    )  # fmt: skip
    display_name = forms.CharField(
        label=_("Your name"), max_length=150, required=False, widget=forms.TextInput({"autocomplete": "name"})
    )
    password = forms.CharField(
        label=_("Password"), strip=False, widget=forms.PasswordInput({"autocomplete": "new-password"}),
        help_text=_("ten characters or more"),
    )  # fmt: skip
