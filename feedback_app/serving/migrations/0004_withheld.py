"""A version that people are still asked about, or have found worse, may not go live."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("serving", "0003_soak"),
    ]

    operations = [
        migrations.AddField(
            model_name="policyversion",
            name="withheld",
            field=models.CharField(
                blank=True,
                help_text="why it may not go live: the round that made it has not let it through",
                max_length=300,
            ),
        ),
    ]
