"""Tasks of a round's gate know their round: found by it, made once, withdrawn with it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0004_covered_keys"),
    ]

    operations = [
        migrations.AddField(
            model_name="task",
            name="round_id",
            field=models.UUIDField(blank=True, help_text="of the round whose gate asks for a blind task", null=True),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "gate")),
                fields=("round_id", "prompt"),
                name="task_blind_once_a_round_and_prompt",
            ),
        ),
        migrations.AddConstraint(
            model_name="task",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "gate"), ("round_id__isnull", False)),
                    models.Q(models.Q(("kind", "gate"), _negated=True), ("round_id__isnull", True)),
                    _connector="OR",
                ),
                name="task_blind_belongs_to_a_round",
            ),
        ),
    ]
