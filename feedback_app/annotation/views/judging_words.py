"""What the judging page's script says, translated where the page is made; %(name)s is filled in by the script."""

from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext


def words() -> dict[str, str]:
    """Return each sentence by the name that the script knows it by."""
    return _verdict_words() | _state_words() | _key_words()


def returned_words(number: int) -> str:
    """Say how many verdicts a reviewer has sent back; nothing where there are none."""
    if not number:
        return ""
    words = ngettext(
        "A reviewer sent %(n)s verdict of yours back, with a comment.",
        "A reviewer sent %(n)s verdicts of yours back, each with a comment.",
        number,
    )
    return words % {"n": number}


def _verdict_words() -> dict[str, str]:
    return {
        "response": _("Response %(letter)s"),
        "empty_response": _("This response is empty."),
        "place": _("Place %(letter)s next"),
        "take_back": _("Take %(letter)s back"),
        "unplaced": _("Not placed yet"),
        "unranked": _("Left unranked"),
        "place_1": pgettext("place in a ranking", "1st"),
        "place_2": pgettext("place in a ranking", "2nd"),
        "place_3": pgettext("place in a ranking", "3rd"),
        "place_n": pgettext("place in a ranking", "%(n)sth"),
        "between": _("new place"),
        "follows": _("follows by itself"),
        "tie": _("equal"),
        "all_equal": _("All equal"),
        "all_bad": _("All bad"),
        "no_ties": _("This project wants no ties: put one response above the other."),
        "strength": _("How much better?"),
        "strength_of": _("How much better is %(letter)s?"),
        "strength_tie": _("Equal: nothing to weigh"),
        "strength_first": _("Rank the responses first"),
        "scale": _("Which is better, and by how much?"),
        "scale_step": pgettext("a response's letter and how much better it is", "%(letter)s: %(step)s"),
        "rating_of": _("%(label)s of %(letter)s"),
        "flags_of": _("Flags of %(letter)s"),
        "rewrite": _("Rewrite"),
        "rewrite_of": _("Your version of %(letter)s"),
        "rewrite_drop": _("Drop the rewrite"),
        "rewrite_changes": _("What you changed"),
        "required": _("required"),
        "need_ranking": _("Place every response first: press its number."),
        "need_ranking_some": _("Place at least one response: press its number."),
        "need_scale": _("Choose a step of the scale first."),
        "need_strength": _("Say how much better it is."),
        "need_rating": _("%(label)s of %(letter)s is missing."),
        "need_rationale": _("A rationale is required."),
        "role_user": _("User"),
        "role_assistant": _("Assistant"),
        "role_system": _("System"),
        "role_tool": _("Tool"),
        "rated": _("%(n)s of %(of)s rated"),
        "nothing_placed": _("nothing placed yet"),
        "unfold": _("Unfold"),
        "fold": _("Fold"),
        "differences_of": _("Differences to %(letter)s are underlined."),
    }


def _state_words() -> dict[str, str]:
    return {
        "submit": _("Submit"),
        "store_revision": _("Store the revision"),
        "saving": _("Saving…"),
        "today": _("%(n)s today"),
        "draft_saved": _("Draft saved %(time)s"),
        "draft_kept": _("Draft kept on this device"),
        "draft_refused": _("Draft kept on this device only: %(reason)s"),
        "draft_earlier": _("This device keeps changes that you began before a newer revision was stored."),
        "draft_earlier_take": _("Put them in place"),
        "discard_failed": _(
            "Your unfinished changes could not be discarded on the server: they are there when you open the verdict "
            "again."
        ),
        "stored": _("Stored."),
        "stored_surplus": _("Stored as extra work: the task had been judged often enough in the meantime."),
        "stored_late": _("A verdict that had waited on this device is stored now."),
        "revision_stored": _("The revision is stored."),
        "revising": _("You are editing a verdict that is already stored; the earlier one is kept as well."),
        "revision_drafted": _("Your unfinished changes are in place."),
        "revision_leave": _("Leave it as it was"),
        "sent_back": _("A reviewer sent this verdict back: %(comment)s"),
        "returned_open": _("My work"),
        "later": _("Later"),
        "left_elsewhere": _("This task was finished in another window of yours."),
        "voided": _("This judgment was voided and can no longer be edited: %(reason)s"),
        "unreachable": _(
            "Not stored yet: the server cannot be reached. Your verdict is kept on this device and sent again by "
            "itself until it is stored."
        ),
        "server_failed": _(
            "Not stored yet: the server had a failure. Your verdict is kept on this device and sent again by itself "
            "until it is stored."
        ),
        "try_now": _("Try now"),
        "offline": _("You are offline. What you do is kept on this device."),
        "refused": _("The server did not take it: %(reason)s"),
        "differs": _(
            "Another verdict of yours is stored for this task, perhaps from another window. It stays as it is."
        ),
        "ended": _(
            "Your reservation ended while you were away. Submit all the same: it counts while a place is free, and is "
            "kept as extra work otherwise."
        ),
        "load_failed": _("The next task could not be loaded. Nothing was lost."),
        "skipped": _("Skipped; it will not come again."),
        "reported": _("Reported; nobody gets it until a manager has looked."),
        "undone": _("Undone."),
        "nothing_to_undo": _("Nothing to undo."),
        "session_ended": _("Your session has ended. What you do is kept on this device until you sign in again."),
        "sign_in": _("Sign in"),
        "sign_in_wrong": _("The server did not take this password."),
        "sign_in_offline": _("The server cannot be reached; try again."),
        "guidelines_new": _("The guidelines have changed. Please read them before you go on."),
    }


def _key_words() -> dict[str, str]:
    return {
        "key_place": _("put that response next in the ranking"),
        "key_tie": _("tie that response with the last placed"),
        "key_equal": _("all equal"),
        "key_bad": _("all bad"),
        "key_back": _("take the last one back"),
        "key_left": _("to the response on the left"),
        "key_right": _("to the response on the right"),
        "key_up": _("to the row above"),
        "key_down": _("to the row below"),
        "key_weaker": _("less strongly better"),
        "key_stronger": _("more strongly better"),
        "key_differences": _("show the differences"),
        "key_fold": _("fold the prompt"),
        "key_guidelines": _("guidelines"),
        "key_scroll": _("scroll together, or one by one"),
        "key_layout": _("responses beside or below each other"),
        "key_skip": _("skip, with a reason"),
        "key_report": _("report a broken task"),
        "key_rationale": _("write the rationale"),
        "key_rewrite": _("rewrite the response in focus"),
        "key_submit": _("submit"),
        "key_submit_text": _("submit, from inside a text too"),
        "key_undo": _("undo; right after a submit, open it again"),
        "key_leave": _("leave the text or the dialog"),
        "key_keys": _("this overview"),
        "key_rate": _("on a rating row: rate"),
        "key_letter": _("rate: %(label)s"),
        "key_flag": _("flag: %(label)s"),
        "key_change": _("Change"),
        "key_press": _("Press a key"),
        "key_taken": _("That key is taken."),
        "key_reset": _("All keys as they came"),
    }
