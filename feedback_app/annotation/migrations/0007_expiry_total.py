"""How many reservations have run out, kept as a total that nothing lowers."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0006_lean_indexes"),
        ("projects", "0003_invitation"),
    ]

    operations = [
        migrations.CreateModel(
            name="ExpiryTotal",
            fields=[
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="projects.project",
                    ),
                ),
                ("total", models.BigIntegerField(default=0)),
            ],
            options={"db_table": "annotation_expiry_total"},
        ),
    ]
