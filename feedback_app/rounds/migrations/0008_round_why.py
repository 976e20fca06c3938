"""What a round's error was made of, so that it is read in the reader's language."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rounds", "0007_elsewhere"),
    ]

    operations = [
        migrations.AddField(
            model_name="round",
            name="why",
            field=models.JSONField(blank=True, default=dict, help_text="what the error was made of, for any language"),
        ),
    ]
