"""An application with Alembic in three versions: `migrate_alembic.py FILE migrate|pending|insert VERSION [NAME]`."""

from __future__ import annotations

import sys

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

FILE, ACTION, VERSION = sys.argv[1], sys.argv[2], int(sys.argv[3])


def _first(op):
    op.create_table(
        "alembic_item",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("price", sa.Integer, nullable=False),
        sa.Column("note", sa.Text),
    )


def _second(op):
    op.drop_column("alembic_item", "note")
    op.add_column("alembic_item", sa.Column("starred", sa.Boolean, nullable=False, server_default="0"))
    with op.batch_alter_table("alembic_item") as batch:
        batch.alter_column("price", type_=sa.Float, nullable=True)


def _third(op):
    with op.batch_alter_table("alembic_item") as batch:
        batch.create_unique_constraint("one_name", ["name"])
        batch.drop_column("starred")
    op.create_index("by_price", "alembic_item", ["price"])


def main():
    """Do one action."""
    engine = sa.create_engine(f"sqlite:///{FILE}", connect_args={"timeout": 20})
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        done = int(context.get_current_revision() or 0)
        if ACTION == "pending":
            print("pending" if done < VERSION else "none")
        elif ACTION == "migrate":
            context._ensure_version_table()
            for number, step in enumerate((_first, _second, _third), 1):
                if done < number <= VERSION:
                    step(Operations(context))
                    table = sa.table("alembic_version", sa.column("version_num"))
                    connection.execute(sa.delete(table))
                    connection.execute(sa.insert(table).values(version_num=str(number)))
        else:
            connection.execute(sa.text("INSERT INTO alembic_item(name, price) VALUES(:n, 7)"), {"n": sys.argv[4]})
            connection.execute(
                sa.text("UPDATE alembic_item SET name = name, price = 8 WHERE name = :n"), {"n": sys.argv[4]}
            )


main()
