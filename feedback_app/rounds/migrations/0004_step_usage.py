from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rounds", "0003_simulation")]

    operations = [
        migrations.AddField(
            model_name="roundstep",
            name="usage",
            field=models.JSONField(default=dict, help_text="what the trainer took of its machine when last looked at"),
        ),
    ]
