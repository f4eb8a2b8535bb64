#!/bin/sh
# Back up the database: one consistent moment of it as app-TIME.dump with its checksum beside it, the oldest dropped.
# PGHOST, PGUSER and PGDATABASE say which; the password comes from PASSWORD_FILE.
set -eu
umask 077
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/connect.sh"

name=app-$(date -u +%Y%m%dT%H%M%SZ).dump
cd "$BACKUPS"
find . -name 'app-*.part' -mmin +180 -delete # of a run that was killed, not of one that was begun by hand just now

# However this run ends, only whole backups stay. The dump runs in the background because the shell handles no signal
# while it waits for a program in the foreground.
dump=
finish() {
    [ -z "$dump" ] || { kill "$dump" && wait "$dump"; } 2>/dev/null || true
    rm -f "$name.part"
    [ -e "$name" ] || rm -f "$name.sha256"
}
trap finish EXIT

pg_dump --format=custom --no-owner --no-privileges --lock-wait-timeout=60000 --file="$name.part" &
dump=$!
wait "$dump"
dump=
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
