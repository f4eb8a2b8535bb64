-- Sums per hour, from which reports are made: a year of requests is read in seconds, and the sums stay when rows are
-- pruned. Triggers keep them in the transaction that inserts the rows, so the two never disagree. Deleting rows
-- leaves them as they are.

-- Requests of one hour that are alike. `key` is a hash of the columns after it: a path may be longer than an index
-- entry can be.
CREATE TABLE usage_hourly (
    hour          TIMESTAMPTZ NOT NULL,
    key           UUID NOT NULL,
    principal_id  TEXT,
    username      TEXT NOT NULL,
    group_name    TEXT,
    endpoint_type TEXT NOT NULL,
    status_code   INTEGER,
    url_path      TEXT NOT NULL,
    model         TEXT,
    requests      BIGINT NOT NULL,
    request_bytes BIGINT NOT NULL,
    first_at      TIMESTAMPTZ NOT NULL,
    last_at       TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (hour, key)
) WITH (fillfactor = 80);

CREATE INDEX idx_usage_hourly_principal_hour ON usage_hourly (principal_id, hour);

-- How long the requests of one row of usage_hourly took: bucket b counts 1.1^b ms up to 1.1^(b+1) ms.
CREATE TABLE usage_latency_hourly (
    hour     TIMESTAMPTZ NOT NULL,
    key      UUID NOT NULL,
    bucket   SMALLINT NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (hour, key, bucket)
) WITH (fillfactor = 80);

-- Runs of jobs by the hour in which they ended.
CREATE TABLE outcomes_hourly (
    hour       TIMESTAMPTZ NOT NULL,
    owner      TEXT NOT NULL,
    model      TEXT NOT NULL,
    status     TEXT NOT NULL,
    dead       BOOLEAN NOT NULL,
    runs       BIGINT NOT NULL,
    compute_ms BIGINT NOT NULL,
    PRIMARY KEY (hour, owner, model, status, dead)
) WITH (fillfactor = 80);

-- Any number has a bucket, also zero, infinity and NaN: counting must never refuse a row.
CREATE FUNCTION usage_latency_bucket(latency_ms DOUBLE PRECISION) RETURNS SMALLINT
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT least(greatest(floor(ln(greatest(latency_ms, 0.001)) / ln(1.1)), -50), 200)::smallint $$;

CREATE FUNCTION usage_key(principal_id TEXT, username TEXT, group_name TEXT, endpoint_type TEXT, status_code INTEGER,
        url_path TEXT, model TEXT) RETURNS UUID
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT encode(substring(sha256(convert_to(
        ROW (principal_id, username, group_name, endpoint_type, status_code, url_path, model)::text, 'UTF8'
    )) FOR 16), 'hex')::uuid $$;

-- Each sum is written once: as the body of a trigger, over the rows that a statement added, and over all rows that are
-- there already. Upserts go in the order of the key, so that two writers wait for each other instead of deadlocking.
DO $migration$
DECLARE
    requests TEXT := $sql$
        INSERT INTO usage_hourly AS kept
        SELECT hour, usage_key(principal_id, username, group_name, endpoint_type, status_code, url_path, model) AS key,
            principal_id, username, group_name, endpoint_type, status_code, url_path, model, requests, request_bytes,
            first_at, last_at
        FROM (
            SELECT date_trunc('hour', timestamp, 'UTC') AS hour, principal_id, username, group_name, endpoint_type,
                status_code, url_path, model, count(*) AS requests,
                coalesce(sum(request_bytes), 0)::bigint AS request_bytes, min(timestamp) AS first_at,
                max(timestamp) AS last_at
            FROM %s AS added WHERE timestamp IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ) AS alike
        ORDER BY hour, key
        ON CONFLICT (hour, key) DO UPDATE SET requests = kept.requests + excluded.requests,
            request_bytes = kept.request_bytes + excluded.request_bytes,
            first_at = least(kept.first_at, excluded.first_at), last_at = greatest(kept.last_at, excluded.last_at);
    $sql$;
    latencies TEXT := $sql$
        INSERT INTO usage_latency_hourly AS kept
        SELECT hour, usage_key(principal_id, username, group_name, endpoint_type, status_code, url_path, model) AS key,
            bucket, requests
        FROM (
            SELECT date_trunc('hour', timestamp, 'UTC') AS hour, principal_id, username, group_name, endpoint_type,
                status_code, url_path, model, usage_latency_bucket(latency_ms) AS bucket, count(*) AS requests
            FROM %s AS added WHERE timestamp IS NOT NULL AND latency_ms IS NOT NULL
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ) AS alike
        ORDER BY hour, key, bucket
        ON CONFLICT (hour, key, bucket) DO UPDATE SET requests = kept.requests + excluded.requests;
    $sql$;
    outcomes TEXT := $sql$
        INSERT INTO outcomes_hourly AS kept
        SELECT date_trunc('hour', completed_at, 'UTC') AS hour, owner, model, status, dead, count(*),
            coalesce(sum(greatest(extract(epoch FROM completed_at - started_at) * 1000, 0)), 0)::bigint
        FROM %s AS added GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (hour, owner, model, status, dead) DO UPDATE SET runs = kept.runs + excluded.runs,
            compute_ms = kept.compute_ms + excluded.compute_ms;
    $sql$;
    body TEXT := 'CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS %L';
BEGIN
    EXECUTE format(body, 'roll_up_usage', format('BEGIN ' || requests || latencies || ' RETURN NULL; END', 'added', 'added'));
    EXECUTE format(body, 'roll_up_outcomes', format('BEGIN ' || outcomes || ' RETURN NULL; END', 'added'));
    -- From here on writers wait until this is committed, so no row is counted twice or never.
    CREATE TRIGGER roll_up AFTER INSERT ON api_usage REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION roll_up_usage();
    CREATE TRIGGER roll_up AFTER INSERT ON job_outcomes REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION roll_up_outcomes();
    EXECUTE format(requests, 'api_usage');
    EXECUTE format(latencies, 'api_usage');
    EXECUTE format(outcomes, 'job_outcomes');
END $migration$;
