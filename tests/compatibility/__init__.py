"""Applications, drivers and formats beside a node: each is run for real, and docs/compatibility.md keeps what came of it."""
