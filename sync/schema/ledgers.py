"""Ledgers: the tables in which migration tools keep which changes of the schema are done.

A row of a ledger speaks of the schema. So it is stamped after the definitions that came with it, and a node that could not follow
some definition takes in no ledger until it has: its own tool then makes the same change, and both are alike.
"""

from __future__ import annotations

__all__ = ["LEDGERS", "is_ledger"]

# By folded name. Tables of these names that no tool made merely wait in the same case.
LEDGERS = frozenset(
    (
        "__diesel_schema_migrations",
        "__drizzle_migrations",
        "__efmigrationshistory",
        "__efmigrationslock",
        "_prisma_migrations",
        "_sqlite_migrations",  # sqlite-utils and sqlite-migrate
        "_sqlx_migrations",
        "_yoyo_migration",
        "aerich",  # Tortoise
        "alembic_version",
        "ar_internal_metadata",  # Rails, beside schema_migrations
        "atlas_schema_revisions",
        "bun_migrations",
        "d1_migrations",
        "databasechangelog",  # Liquibase
        "django_migrations",
        "doctrine_migration_versions",
        "flyway_schema_history",
        "goose_db_version",
        "gorp_migrations",  # sql-migrate
        "grdb_migrations",  # GRDB, on Apple's systems
        "knex_migrations",
        "knex_migrations_lock",
        "kysely_migration",
        "kysely_migration_lock",
        "migratehistory",  # peewee
        "migrations",  # TypeORM, Laravel
        "mikro_orm_migrations",
        "phinxlog",
        "refinery_schema_history",
        "room_master_table",  # Android's Room: the hash of the schema
        "schema_info",  # Sequel, beside schema_migrations
        "schema_migrations",  # Rails, Ecto, dbmate, golang-migrate
        "schemaversions",  # DbUp
        "seaql_migrations",
        "sequelizemeta",
        "typeorm_metadata",
        "versioninfo",  # FluentMigrator
    )
)


def is_ledger(table: str) -> bool:
    """Return True if a table of that canonical name is a ledger."""
    return table in LEDGERS
