#!/bin/sh
# restore.sh BACKUP|latest: put a snapshot from $BACKUPS where the stopped server will find it, in $DATA. What is there
# is moved aside, never deleted. With `appendonly yes` a server does not read dump.rdb: the snapshot becomes the base of
# an append-only file, named by its manifest.
set -eu
umask 027

backup=$1
if [ "$backup" = latest ]; then
    backup=$(cd "$BACKUPS" && printf '%s\n' *.rdb | tail -n 1)
fi
[ -n "$backup" ] && [ -f "$BACKUPS/$backup" ] || { echo "there is no backup '$backup' in $BACKUPS" >&2; exit 1; }
(cd "$BACKUPS" && sha256sum --check --quiet "${backup%.rdb}.sha256") || { echo "$backup is damaged" >&2; exit 1; }

cd "$DATA"
rm -rf restoring # of a run that was killed
mkdir restoring
cp "$BACKUPS/$backup" restoring/appendonly.aof.1.base.rdb
echo "file appendonly.aof.1.base.rdb seq 1 type b" >restoring/appendonly.aof.manifest
sync

aside=replaced-$(date -u +%Y%m%dT%H%M%SZ)
for found in appendonlydir dump.rdb; do
    [ ! -e "$found" ] || { mkdir -p "$aside" && mv "$found" "$aside/"; }
done
mv restoring appendonlydir # whole or not at all
echo "$backup is in place; start the server"
