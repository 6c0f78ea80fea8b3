"""PostgreSQL: connections, migrations, and an embedded server."""
