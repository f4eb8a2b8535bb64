# shellcheck shell=bash
# Sourced by backup.sh and restore.sh. Takes the password from PASSWORD_FILE, and returns when the server answers.
# A new pod may run before the network knows it, and its first connections are refused: wait up to WAIT_S seconds.
PGPASSWORD=$(cat "$PASSWORD_FILE")
export PGPASSWORD PGCONNECT_TIMEOUT=10
trap 'echo "interrupted" >&2; exit 143' HUP INT TERM # the first process of a container ends by no signal unhandled

waits=
deadline=$(($(date +%s) + ${WAIT_S:-60}))
until reason=$(pg_isready --timeout=3); do
    if [ "$(date +%s)" -ge "$deadline" ]; then
        reason=$(psql --no-psqlrc --command='' 2>&1) || true # says more than pg_isready
        echo "PostgreSQL has not answered within ${WAIT_S:-60} s: $reason" >&2
        echo "Does its pod run, and does a NetworkPolicy let this one connect?" >&2
        exit 1
    fi
    [ -n "$waits" ] || echo "waiting for PostgreSQL: $reason" >&2
    waits=yes
    sleep 0.5
done
