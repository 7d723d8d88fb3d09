"""A Django application with three versions of its schema: `migrate_django.py FILE migrate|pending|insert VERSION [NAME]`.

Version 1 creates, 2 drops and adds columns and changes one by a rebuild, 3 adds UNIQUE by a rebuild.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import django
from django.conf import settings
from django.db import migrations, models

FILE, ACTION, VERSION = sys.argv[1], sys.argv[2], int(sys.argv[3])
OPERATIONS = (
    [
        migrations.CreateModel(
            "Item",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=50)),
                ("price", models.IntegerField()),
                ("note", models.TextField(default="")),
            ],
        ),
        migrations.CreateModel(
            "Tag",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("items", models.ManyToManyField("shop.item")),
            ],
        ),
    ],
    [
        migrations.RemoveField("item", "note"),
        migrations.AddField("item", "starred", models.BooleanField(default=False)),
        migrations.AlterField("item", "price", models.FloatField(null=True)),
        migrations.AddField("tag", "main", models.ForeignKey("shop.item", models.CASCADE, null=True, related_name="+")),
    ],
    [
        migrations.AlterField("item", "name", models.CharField(max_length=80, unique=True)),
        migrations.RemoveField("tag", "main"),
    ],
)


def _write(folder):
    """Write the application `shop` with its migrations."""
    package = Path(folder) / "shop" / "migrations"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    for number in range(1, VERSION + 1):
        text = f"from __main__ import made\nMigration = made({number})\n"
        (package / f"000{number}_step.py").write_text(text)
    sys.path.insert(0, folder)


def made(number):
    """Return the class of one migration."""
    before = [("shop", f"000{number - 1}_step")] if number > 1 else []
    return type("Migration", (migrations.Migration,), {"dependencies": before, "operations": OPERATIONS[number - 1]})


def main(folder):
    """Do one action."""
    _write(folder)
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FILE, "OPTIONS": {"timeout": 20}}},
        INSTALLED_APPS=["shop"],
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    target = ("shop", f"000{VERSION}_step")
    if ACTION == "pending":
        print("pending" if executor.migration_plan([target]) else "none")
    elif ACTION == "migrate":
        call_command("migrate", *target, verbosity=0)
    else:
        item = executor.loader.project_state(target).apps.get_model("shop", "Item")
        item(name=sys.argv[4], price=7).save()
        found = item.objects.get(name=sys.argv[4])
        found.price = 8
        found.save()  # writes every column


with tempfile.TemporaryDirectory() as home:
    main(home)
