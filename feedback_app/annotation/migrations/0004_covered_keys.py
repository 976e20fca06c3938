"""No index of its own for a key that a wider one begins with: every judgment and every imported row paid for it."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("annotation", "0003_task_list"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="taskresponse",
            name="task_response_once",
        ),
        migrations.AlterField(
            model_name="assignment",
            name="task",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="assignments",
                to="annotation.task",
            ),
        ),
        migrations.AlterField(
            model_name="judgment",
            name="annotator",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="judgments",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AlterField(
            model_name="taskresponse",
            name="response",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="task_responses",
                to="annotation.response",
            ),
        ),
        migrations.AlterField(
            model_name="taskresponse",
            name="task",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="task_responses",
                to="annotation.task",
            ),
        ),
        migrations.AddConstraint(
            model_name="taskresponse",
            constraint=models.UniqueConstraint(fields=("response", "task"), name="task_response_once"),
        ),
    ]
