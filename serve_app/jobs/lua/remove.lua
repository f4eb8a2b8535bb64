-- Remove an ended job for its owner (id, owner): {'done'}, or why not. PostgreSQL is told to forget what came of it;
-- until it has, `removed` keeps anybody from reading it there.
local record, reason = owned(ARGV[1], ARGV[2])
if not record then return { reason } end
if record.status == 'PENDING' or record.status == 'PROCESSING' then return { 'unended' } end
local dead = redis.call('ZREM', dead_key(record.model), record.id)
if dead == 1 then redis.call('DECRBY', dead_bytes_key(record.model), record.bytes) end
local completed_at = redis.call('HGET', job_key(record.id), 'completed_at')
redis.call('ZREM', jobs_key(record.owner), record.id)
redis.call('UNLINK', job_key(record.id), outputs_key(record.id),
  record.reference ~= '' and record.reference or job_key(record.id))
redis.call('SET', removed_key(record.id), '1', 'EX', REMOVED_TTL_S)
redis.call('XADD', outbox_key(), '*', 'kind', 'removal', 'job_id', record.id, 'run', record.run,
  'owner', record.owner, 'model', record.model, 'status', record.status, 'dead', dead,
  'deliveries', record.deliveries, 'submitted_at', record.submitted_at, 'started_at', record.started_at or '0',
  'completed_at', completed_at, 'removed_at', NOW)
return { 'done' }
