#!/bin/sh
# Run once by the image of PostgreSQL, over its own socket, before anybody can connect: the roles of
# the functions, each with the password that its function has. The migrations find them there.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv record SALDO_RECORD
\getenv project SALDO_PROJECT
\getenv query SALDO_QUERY
CREATE ROLE saldo_record LOGIN PASSWORD :'record';
CREATE ROLE saldo_project LOGIN PASSWORD :'project';
CREATE ROLE saldo_query LOGIN PASSWORD :'query';
CREATE ROLE saldo_operate NOLOGIN;
SQL
# The image lets hosts in without TLS too; here nobody is.
sed -i 's/^host[[:space:]]/hostssl /' "$PGDATA/pg_hba.conf"
