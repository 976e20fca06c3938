from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("rounds", "0006_host"),
    ]

    operations = [
        migrations.AddField(
            model_name="round",
            name="elsewhere",
            field=models.JSONField(
                blank=True, default=dict, help_text="where a policy made elsewhere is taken from; empty: it trains one"
            ),
        ),
        migrations.AlterField(
            model_name="roundstep",
            name="name",
            field=models.CharField(
                choices=[
                    ("adopt", "taking in"),
                    ("export", "export"),
                    ("sft", "supervised fine-tuning"),
                    ("reward", "reward model"),
                    ("ppo", "PPO"),
                    ("evaluate", "evaluation"),
                    ("gate", "gate"),
                    ("push", "push"),
                ],
                max_length=16,
            ),
        ),
    ]
