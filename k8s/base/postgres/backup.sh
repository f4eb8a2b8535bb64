#!/bin/sh
# Back up the database: one consistent moment of it as app-TIME.dump with its checksum beside it, the oldest dropped.
# PGHOST, PGUSER and PGDATABASE say which; the password comes from PASSWORD_FILE.
set -eu
umask 077
PGPASSWORD=$(cat "$PASSWORD_FILE")
export PGPASSWORD PGCONNECT_TIMEOUT=10

name=app-$(date -u +%Y%m%dT%H%M%SZ).dump
cd "$BACKUPS"
rm -f app-*.part
pg_dump --format=custom --no-owner --no-privileges --lock-wait-timeout=60000 --file="$name.part"
pg_restore --list "$name.part" >/dev/null # its table of contents can be read
sha256sum "$name.part" | sed "s/\.part$//" >"$name.sha256"
mv "$name.part" "$name" # last: a backup that has its name is whole

# Names sort by time: what stands before the newest KEEP goes.
set -- app-*.dump
while [ "$#" -gt "$KEEP" ]; do
    rm -f "$1" "$1.sha256"
    shift
done
echo "$name: $(wc -c <"$name") bytes"
