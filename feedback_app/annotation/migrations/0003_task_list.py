"""The list of a project's tasks reads its page by an index: a million of them were sorted for fifty."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("annotation", "0002_trust")]

    operations = [
        migrations.AddIndex("task", models.Index(fields=["project", "-position"], name="task_list")),
    ]
