"""Whether somebody else knows the password, and a theme that tells "the system's" from "never chosen"."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="user",
            name="password_given",
            field=models.BooleanField(
                default=False, help_text="somebody else made the password, and so knows it: a new one is asked for"
            ),
        ),
        migrations.AlterField(
            model_name="user",
            name="theme",
            field=models.CharField(
                blank=True,
                choices=[("system", "as the system"), ("light", "light"), ("dark", "dark")],
                help_text="empty: never chosen",
                max_length=8,
            ),
        ),
        # Nobody has stored one so far: "system" was everybody's default.
        migrations.RunSQL("UPDATE accounts_user SET theme = ''", migrations.RunSQL.noop),
    ]
