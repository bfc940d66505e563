"""The two tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Sent",
            fields=[
                ("occurrence", models.DateTimeField(primary_key=True, serialize=False)),
                ("worker", models.CharField(max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name="Guard",
            fields=[
                ("resource", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("token", models.BigIntegerField(default=0)),
            ],
        ),
    ]
