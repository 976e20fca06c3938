"""What can go wrong between an annotator and a task, each with what the faces say of it."""

from collections.abc import Mapping


class AnnotationError(Exception):
    """A rule of annotation said no; code is the HTTP status it stands for."""

    code = 400

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = dict(errors)
        super().__init__("; ".join(f"{name}: {' '.join(reasons)}" for name, reasons in self.errors.items()))


class VerdictInvalid(AnnotationError):
    """A judgment or a draft that the protocol does not know; errors name the fields."""


class NotAssigned(AnnotationError):
    """The task was never given to this annotator, or is none of the project's: like a task that does not exist."""

    code = 404


class MemberPaused(AnnotationError):
    """The annotator is paused in this project; the reason is theirs to read."""

    code = 403


class ReservationEnded(AnnotationError):
    """The reservation expired or was given up; a verdict is taken all the same."""

    code = 409


class VerdictDiffers(AnnotationError):
    """Another verdict is stored for this assignment, or another request for this Idempotency-Key."""

    code = 409


class LimitReached(AnnotationError):
    """The annotator has judged as much as the project takes from one person a day."""

    code = 403
