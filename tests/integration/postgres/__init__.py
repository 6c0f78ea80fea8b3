"""PostgreSQL: the embedded server, migrations, roles, and connections that break."""
