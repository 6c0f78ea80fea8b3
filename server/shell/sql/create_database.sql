-- The statement that makes a database, or no row where it is there already.
-- CREATE DATABASE takes no parameters, so the name is quoted by the server itself.
-- template0: nobody can be connected to it, and nobody has put anything into it.
SELECT format('CREATE DATABASE %I TEMPLATE template0', $1::text)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1::text);
