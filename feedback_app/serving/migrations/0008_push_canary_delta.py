"""How far a push's answers were from the trainer's, kept whether it went live or not."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("serving", "0007_pinned"),
    ]

    operations = [
        migrations.AddField(
            model_name="push",
            name="canary_delta",
            field=models.FloatField(
                blank=True,
                help_text="largest difference from the trainer's log-probabilities; empty: none was measured",
                null=True,
            ),
        ),
    ]
