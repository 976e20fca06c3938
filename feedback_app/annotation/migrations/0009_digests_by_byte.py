from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("annotation", "0008_voided_at")]

    operations = [
        migrations.AlterField(
            model_name="prompt",
            name="content_sha256",
            field=models.CharField(db_collation="C", help_text="of the whole conversation, normalised", max_length=64),
        ),
        migrations.AlterField(
            model_name="task",
            name="identity_sha256",
            field=models.CharField(
                blank=True, db_collation="C", help_text="of an imported row", max_length=64, null=True
            ),
        ),
    ]
