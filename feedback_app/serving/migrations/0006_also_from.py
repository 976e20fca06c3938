from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("serving", "0005_endpoint_calibration"),
    ]

    operations = [
        migrations.AddField(
            model_name="policyversion",
            name="also_from",
            field=models.ManyToManyField(
                blank=True,
                help_text="further parents, as of a merge",
                related_name="also_children",
                to="serving.policyversion",
            ),
        ),
    ]
