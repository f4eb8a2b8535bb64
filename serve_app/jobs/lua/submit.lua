-- Accept a job, or say why not: {'accepted', now} | {'known'} | {'input'}, or as `refusal` says; or, where a submit
-- with this idempotency key was accepted before, {'repeated', its fingerprint, job, time}.
local id, owner, model, priority, params, reference, bytes, pixels, media_type, traceparent,
  hash, fingerprint = unpack(ARGV)

-- A key is remembered for a day, and of one owner only so many.
local function remember()
  local hashes = idems_key(owner)
  redis.call('HSET', idem_key(hash), 'fingerprint', fingerprint, 'id', id, 'at', NOW)
  redis.call('EXPIRE', idem_key(hash), IDEMPOTENCY_TTL_S)
  redis.call('ZREMRANGEBYSCORE', hashes, '-inf', NOW - IDEMPOTENCY_TTL_S * 1000)
  redis.call('ZADD', hashes, NOW, hash)
  redis.call('EXPIRE', hashes, IDEMPOTENCY_TTL_S)
  while redis.call('ZCARD', hashes) > IDEMPOTENCY_MAX do
    redis.call('UNLINK', idem_key(redis.call('ZPOPMIN', hashes)[1]))
  end
end

if hash ~= '' then
  local first = redis.call('HMGET', idem_key(hash), 'fingerprint', 'id', 'at')
  if first[1] then return { 'repeated', unpack(first) } end
end
if redis.call('EXISTS', job_key(id)) == 1 then return { 'known' } end
local reason, in_flight = refusal(model, bytes)
if reason then return reason end
if not input_is_there({ reference = reference }) then return { 'input' } end

local record = { id = id, owner = owner, model = model, priority = priority, turn = count(model, 'accepted') }
redis.call('HSET', job_key(id), 'v', VERSION, 'owner', owner, 'model', model, 'priority', priority,
  'status', 'PENDING', 'run', 1, 'deliveries', 0, 'strikes', 0, 'turn', record.turn, 'params', params,
  'reference', reference, 'bytes', bytes, 'pixels', pixels, 'media_type', media_type,
  'traceparent', traceparent, 'submitted_at', NOW)
if hash ~= '' then remember() end
enlist(record)
if reference ~= '' then redis.call('PERSIST', reference) end
redis.call('INCRBY', held_bytes_key(), bytes)
-- Dispatchers claim until nothing waits or the window is full, and a chunk that closes wakes them again. So only the
-- first job that waits has to.
if in_flight == redis.call('ZCARD', lease_key(model)) then wake(model) end
enter(record)
return { 'accepted', NOW }
