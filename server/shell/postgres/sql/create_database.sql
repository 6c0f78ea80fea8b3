-- The statement that makes a database, or no row if it already exists.
-- CREATE DATABASE takes no parameters, so the server itself quotes the name.
-- template0: no client can be connected to it, and nothing has been added to it.
SELECT format('CREATE DATABASE %I TEMPLATE template0', $1::text)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1::text);
