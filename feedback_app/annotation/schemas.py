"""The shapes of annotation's JSON, as the OpenAPI schema shows them.

They describe and do not run: requests are read by verdicts.py, which knows the protocol, and answers are written by the
services, which have no time to spare.
"""

from typing import Any

from rest_framework import serializers


class _Shape(serializers.Serializer[Any]):
    """A shape that is only described."""


class HoldShape(_Shape):
    hold = serializers.ListField(child=serializers.UUIDField(), required=False, help_text="assignment ids to leave out")


class ReasonShape(_Shape):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=300)


class AssignmentShape(_Shape):
    id = serializers.UUIDField()
    expires_at = serializers.DateTimeField()


class MessageShape(_Shape):
    role = serializers.CharField()
    content = serializers.CharField(allow_blank=True)


class ConversationShape(_Shape):
    messages = MessageShape(many=True)


class ShownResponseShape(_Shape):
    id = serializers.UUIDField()
    text = serializers.CharField(allow_blank=True)


class TaskShape(_Shape):
    id = serializers.UUIDField()
    assignment = AssignmentShape()
    prompt = ConversationShape()
    responses = ShownResponseShape(many=True, help_text="in the order shown to this annotator")
    protocol = serializers.DictField(help_text="what is asked, as pinned by the assignment")
    draft = serializers.DictField(allow_null=True)


class VerdictShape(_Shape):
    ranking = serializers.ListField(
        child=serializers.ListField(child=serializers.UUIDField()),
        required=False,
        help_text="best tier first; a tie shares a tier; ids left out are unranked, not worst",
    )
    all_bad = serializers.BooleanField(required=False)
    strength = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=3, help_text="how much better the first is; 0 on a tie"
    )
    ratings = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()),
        required=False,
        help_text="response id -> attribute -> number",
    )
    flags = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="response id -> names"
    )
    rewrites = serializers.DictField(
        child=serializers.CharField(allow_blank=True), required=False, help_text="response id -> text"
    )
    rationale = serializers.CharField(required=False, allow_blank=True)
    lead_time = serializers.FloatField(required=False, allow_null=True, help_text="seconds")


class JudgmentShape(VerdictShape):
    id = serializers.UUIDField()
    task = serializers.UUIDField()
    surplus = serializers.BooleanField(help_text="came when no place was free: kept, never counted")
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()


class KappaShape(_Shape):
    a = serializers.CharField()
    b = serializers.CharField()
    kappa = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()


class WeekShape(_Shape):
    week = serializers.DateField(help_text="its Monday")
    agreement = serializers.FloatField()
    n = serializers.IntegerField()


class AnnotatorShape(_Shape):
    annotator = serializers.CharField()
    judged = serializers.IntegerField()
    surplus = serializers.IntegerField()
    median_seconds = serializers.FloatField(allow_null=True)
    agreement = serializers.FloatField(allow_null=True)
    agreement_n = serializers.IntegerField()
    first_shown_share = serializers.FloatField(allow_null=True)
    first_shown_n = serializers.IntegerField()
    tie_rate = serializers.FloatField(allow_null=True)
    agreement_by_week = WeekShape(many=True)


class AttributeShape(_Shape):
    krippendorff_alpha = serializers.FloatField(allow_null=True)
    mean = serializers.FloatField()
    n = serializers.IntegerField()


class StrengthShape(_Shape):
    strength = serializers.IntegerField()
    agreement = serializers.FloatField()
    n = serializers.IntegerField()


class QualityShape(_Shape):
    simulated = serializers.BooleanField()
    judgments = serializers.IntegerField()
    tasks = serializers.IntegerField()
    krippendorff_alpha = serializers.FloatField(allow_null=True)
    pairwise_agreement = serializers.FloatField(allow_null=True)
    pairwise_agreement_n = serializers.IntegerField()
    cohen_kappa = KappaShape(many=True)
    fleiss_kappa = serializers.FloatField(allow_null=True)
    agreement_by_strength = StrengthShape(many=True)
    agreement_by_week = WeekShape(many=True)
    attributes = serializers.DictField(child=AttributeShape())
    annotators = AnnotatorShape(many=True)


class ChangeShape(_Shape):
    tasks = serializers.ListField(child=serializers.UUIDField())
    do = serializers.ChoiceField(choices=["priority", "overlap", "archive", "restore"])
    number = serializers.IntegerField(required=False, allow_null=True, help_text="of a priority or an overlap")


class VoidShape(_Shape):
    reason = serializers.CharField(max_length=300)
    judgments = serializers.ListField(child=serializers.UUIDField(), required=False)
    annotator = serializers.CharField(required=False, help_text="user name")
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    guidelines = serializers.IntegerField(required=False, help_text="number of the version they were made under")
    protocol = serializers.IntegerField(required=False, help_text="number of the version they were made under")


class ErrorShape(_Shape):
    """{"field": ["reason"]}"""

    detail = serializers.ListField(child=serializers.CharField(), required=False)
