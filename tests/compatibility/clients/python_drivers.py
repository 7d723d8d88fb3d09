"""Run SQL lines from standard input through one Python driver with its defaults; print what came of it as JSON.

`python python_drivers.py DRIVER FILE`. Lines from BEGIN to COMMIT are one transaction. It imports nothing of the product.
"""

import asyncio
import importlib.metadata
import json
import sys
import time


def transactions(lines):
    """Yield the statements of each transaction."""
    group, inside = [], False
    for line in lines:
        if line.startswith("BEGIN"):
            inside = True
        elif line == "COMMIT":
            yield group
            group, inside = [], False
        elif inside:
            group.append(line)
        else:
            yield [line]


def dbapi(connect):
    def prepared(file):
        db = connect(file)

        def run(group):
            cursor = db.cursor()
            try:
                for sql in group:
                    cursor.execute(sql)
                    if sql.startswith("SELECT"):
                        cursor.fetchall()
                db.commit()
            except BaseException:
                db.rollback()
                raise
            finally:
                cursor.close()

        return run

    return prepared


def use_sqlite3(file):
    import sqlite3

    return dbapi(sqlite3.connect)(file)


def use_apsw(file):
    import apsw

    db = apsw.Connection(file)

    def run(group):
        with db:
            for sql in group:
                db.execute(sql).fetchall()

    return run


def use_sqlalchemy(file):
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{file}")

    def run(group):
        with engine.begin() as connection:
            for sql in group:
                connection.execute(sqlalchemy.text(sql))

    return run


def use_django(file):
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": file}})
    django.setup()
    from django.db import connection, transaction

    def run(group):
        with transaction.atomic(), connection.cursor() as cursor:
            for sql in group:
                cursor.execute(sql)

    return run


def use_peewee(file):
    import peewee

    db = peewee.SqliteDatabase(file)

    def run(group):
        with db.atomic():
            for sql in group:
                db.execute_sql(sql)

    return run


def use_sqlite_utils(file):
    import sqlite_utils

    db = sqlite_utils.Database(file)

    def run(group):
        with db.conn:
            for sql in group:
                db.execute(sql)

    return run


def use_aiosqlite(file):
    import aiosqlite

    loop = asyncio.new_event_loop()
    db = loop.run_until_complete(aiosqlite.connect(file).__aenter__())

    async def write(group):
        try:
            for sql in group:
                await db.execute(sql)
            await db.commit()
        except BaseException:
            await db.rollback()
            raise

    return lambda group: loop.run_until_complete(write(group))


def use_libsql(file):
    import libsql

    return dbapi(libsql.connect)(file)


def use_adbc(file):
    from adbc_driver_sqlite import dbapi as adbc

    return dbapi(adbc.connect)(file)


def use_pandas(file):
    """Append single rows as data frames; other statements by the connection that pandas uses."""
    import sqlite3

    import pandas  # noqa: ICN001

    db = sqlite3.connect(file)
    plain = dbapi(lambda _: db)(file)

    def run(group):
        if len(group) == 1 and group[0].startswith("INSERT"):
            table = group[0].split()[2].partition("(")[0]
            key, value = group[0].partition("VALUES(")[2].rstrip(")").split(", ")
            pandas.DataFrame({"id": [key.strip("'")], "v": [int(value)]}).to_sql(
                table, db, if_exists="append", index=False
            )
        else:
            plain(group)

    return run


def use_duckdb(file):
    import duckdb

    db = duckdb.connect()
    files = importlib.metadata.files("duckdb-extension-sqlite-scanner")
    db.load_extension(str(next(path.locate() for path in files if path.suffix == ".duckdb_extension")))
    db.execute(f"ATTACH '{file}' AS s (TYPE sqlite); USE s")

    def run(group):
        db.execute("BEGIN")
        try:
            for sql in group:
                db.execute(sql)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    return run


def version(driver):
    if driver == "sqlite3":
        return sys.version.split()[0]
    names = {"adbc": "adbc-driver-sqlite", "sqlite_utils": "sqlite-utils"}
    return importlib.metadata.version(names.get(driver, driver))


def main():
    driver, file = sys.argv[1:]
    run = globals()[f"use_{driver}"](file)
    ok, refused, error, started = 0, 0, "", time.monotonic()
    for group in transactions(sys.stdin.read().splitlines()):
        try:
            run(group)
            ok += 1
        except Exception as why:  # noqa: BLE001 -- each driver has its own errors
            refused += 1
            error = error or str(why).splitlines()[0][:200]
    taken = time.monotonic() - started
    print(json.dumps({"ok": ok, "refused": refused, "s": taken, "error": error, "version": version(driver)}))


main()
