#!/bin/sh
# restore.sh BACKUP|latest: fill the empty database with a backup from $BACKUPS, all of it or nothing, and count its rows.
set -eu

backup=$1
if [ "$backup" = latest ]; then
    backup=$(cd "$BACKUPS" && printf '%s\n' *.dump | tail -n 1)
fi
[ -n "$backup" ] && [ -f "$BACKUPS/$backup" ] || { echo "there is no backup '$backup' in $BACKUPS" >&2; exit 1; }
(cd "$BACKUPS" && sha256sum --check --quiet "$backup.sha256") || { echo "$backup is damaged" >&2; exit 1; }

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/connect.sh"
ask() { psql --no-psqlrc --set=ON_ERROR_STOP=1 --tuples-only --no-align --command="$1"; }

tables=$(ask "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
[ "$tables" = 0 ] || { echo "database $PGDATABASE has $tables tables already; restore into an empty one" >&2; exit 1; }

pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname="$PGDATABASE" "$BACKUPS/$backup"
ask "ANALYZE" >/dev/null
ask "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1" | while read -r table; do
    echo "$table: $(ask "SELECT count(*) FROM $table") rows"
done
