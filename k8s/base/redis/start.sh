#!/bin/sh
# start.sh CONFIGURATION: the server with the settings of that file, and with password, maxmemory and TLS from standard
# input: in the command line every process of the node could read the password, and in the environment every child.
set -eu
umask 027 # the backup reads what the server writes, by its group

password=$(cat "$PASSWORD_FILE")
if [ "${#password}" -lt 16 ]; then
    echo "$PASSWORD_FILE must hold a password of 16 characters or more" >&2
    exit 1
fi
case $password in
*[!A-Za-z0-9_-]*)
    echo "$PASSWORD_FILE holds characters that a URL would need escaped; use letters, digits, - and _" >&2
    exit 1
    ;;
esac

tls= # a renewed certificate is read within the hour, without a restart
if [ -n "${TLS_FOLDER:-}" ]; then
    tls="port 0
tls-port 6379
tls-cert-file $TLS_FOLDER/tls.crt
tls-key-file $TLS_FOLDER/tls.key
tls-ca-cert-file $TLS_FOLDER/ca.crt
tls-auth-clients no
tls-auto-reload-interval 3600"
fi

exec valkey-server "$1" - <<SETTINGS
requirepass $password
maxmemory $MAXMEMORY
$tls
SETTINGS
