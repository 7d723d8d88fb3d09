"""An application with SQLAlchemy's create_all, and sqlite-utils for changes: `migrate_metadata.py FILE ACTION VERSION [NAME]`.

create_all makes the tables that are missing, sqlite-utils' transform rebuilds one: drops a column, changes a type, adds NOT NULL.
"""

from __future__ import annotations

import sys

import sqlalchemy as sa
import sqlite_utils

FILE, ACTION, VERSION = sys.argv[1], sys.argv[2], int(sys.argv[3])


def main():
    """Do one action."""
    engine = sa.create_engine(f"sqlite:///{FILE}", connect_args={"timeout": 20})
    made = sa.MetaData()
    columns = [sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String, nullable=False)]
    sa.Table("meta_item", made, *columns, sa.Column("price", sa.Integer), sa.Column("note", sa.Text))
    if VERSION > 2:
        sa.Table(
            "meta_more",
            made,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("meta_item", sa.ForeignKey("meta_item.id")),
        )
    here = (
        {column["name"]: str(column["type"]) for column in sa.inspect(engine).get_columns("meta_item")}
        if _has(engine)
        else {}
    )
    if ACTION == "pending":
        missing = set(made.tables) - set(sa.inspect(engine).get_table_names())
        print("pending" if missing or (VERSION > 1 and here.get("price") != "REAL") else "none")
    elif ACTION == "migrate":
        made.create_all(engine)
        if VERSION == 2:
            table = sqlite_utils.Database(FILE)["meta_item"]
            table.transform(drop={"note"})
            table.transform(types={"price": float}, not_null={"price"}, defaults={"price": 1})
    else:
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO meta_item(name, price) VALUES(:n, 8)"), {"n": sys.argv[4]})


def _has(engine):
    return "meta_item" in sa.inspect(engine).get_table_names()


main()
