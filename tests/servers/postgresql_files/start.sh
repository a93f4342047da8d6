#!/bin/sh
# The entrypoint of the container `postgresql`: makes the data where there are none, then becomes the server. It uses
# nothing but the server's programs and what a shell can do by itself.
set -e
data=/tmp/data
if [ ! -s "$data/PG_VERSION" ]; then
    initdb -D "$data" -U postgres -A trust -E UTF8 --locale=C --no-sync
    printf 'host all all all trust\n' >>"$data/pg_hba.conf"
    printf '%s\n' 'CREATE ROLE coordkit LOGIN' 'CREATE ROLE guest LOGIN' 'CREATE DATABASE coordkit OWNER coordkit' |
        postgres --single -D "$data" postgres
fi
exec postgres -D "$data" "$@"
