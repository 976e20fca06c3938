"""Tell people of a round that has ended or waits for them, in the transaction that moves it."""

from feedback_app.notifications.models import Notification
from feedback_app.notifications.services import announce
from feedback_app.rounds.models import Round

KINDS = {
    Round.State.SUCCEEDED: Notification.Kind.ROUND_SUCCEEDED,
    Round.State.REJECTED: Notification.Kind.ROUND_REJECTED,
    Round.State.FAILED: Notification.Kind.ROUND_FAILED,
    Round.State.CANCELLED: Notification.Kind.ROUND_CANCELLED,
    Round.State.WAITING_FOR_APPROVAL: Notification.Kind.ROUND_WAITS,
    # Come to by a worker: at the gate. One that waits before its start is made so, and told of by who started it.
    Round.State.WAITING_FOR_JUDGMENTS: Notification.Kind.ROUND_ASKS,
}


def announce_round(held: Round) -> None:
    """Tell of the state that a round has come to, once for each claim; most states are nobody's business."""
    kind = KINDS.get(Round.State(held.state))
    if kind is None:
        return
    values = {
        "number": held.number, "round": str(held.pk), "why": held.error, "kept": {"why": held.why} if held.why else {},
        "policy": held.policy.name if held.policy else "",
    }  # fmt: skip
    announce(
        project=held.project, kind=kind, key=f"{held.pk}:{held.fence}", values=values, path=f"rounds/{held.number}/"
    )
