#!/bin/sh
# Runs once, when the volume is new, inside the server's pod. The service gets a role that owns its database and nothing
# else; the administrator's role loses its password, so that it can be used inside the pod alone. (The image takes
# POSTGRES_PASSWORD_FILE out of the environment before it comes here.)
set -eu
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username=postgres --dbname=postgres <<'SQL'
\set password `cat "$PASSWORD_FILE"`
CREATE ROLE semapi LOGIN PASSWORD :'password';
CREATE DATABASE app OWNER semapi;
REVOKE CONNECT ON DATABASE app FROM PUBLIC;
ALTER ROLE postgres PASSWORD NULL;
SQL
