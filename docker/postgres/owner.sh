#!/bin/sh
# Run once by the image, when the volume is new: makes the role that owns the service's database
# and is no superuser. The superuser loses its password, so that it is reached from within the
# container only: docker compose exec db psql --username=postgres
set -eu
psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_PASSWORD" \
    --username="${POSTGRES_USER:-postgres}" --dbname=postgres <<'SQL'
CREATE ROLE webapp LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE webapp OWNER webapp;
REVOKE CONNECT, TEMPORARY ON DATABASE webapp FROM PUBLIC;
ALTER ROLE CURRENT_USER PASSWORD NULL;
SQL
