from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rounds", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="roundstep",
            name="first_fence",
            field=models.PositiveIntegerField(default=1, help_text="what older fences left is not taken up again"),
        ),
    ]
