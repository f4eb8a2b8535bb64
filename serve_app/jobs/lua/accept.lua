-- How jobs are accepted: alone, as items of a batch, or after their URL was fetched; and how a repeated request is
-- recognised.

-- The reply for a request whose idempotency key was used before; nil without a key or for a new one.
local function earlier_submit(hash)
  if hash == '' then return nil end
  local first = redis.call('HMGET', idem_key(hash), 'fingerprint', 'id', 'at')
  if first[1] then return { 'repeated', unpack(first) } end
end

-- Store an idempotency key for a day, and at most IDEMPOTENCY_MAX of one owner.
local function remember_request(owner, hash, fingerprint, id)
  if hash == '' then return end
  local hashes = idems_key(owner)
  redis.call('HSET', idem_key(hash), 'fingerprint', fingerprint, 'id', id, 'at', NOW)
  redis.call('EXPIRE', idem_key(hash), IDEMPOTENCY_TTL_S)
  local gone = NOW - IDEMPOTENCY_TTL_S * 1000
  local old = redis.call('ZRANGEBYSCORE', hashes, '-inf', gone, 'LIMIT', 0, IDEMPOTENCY_SWEEP)
  if old[1] then redis.call('ZREM', hashes, unpack(old)) end
  redis.call('ZADD', hashes, NOW, hash)
  redis.call('EXPIRE', hashes, IDEMPOTENCY_TTL_S)
  while redis.call('ZCARD', hashes) > IDEMPOTENCY_MAX do
    redis.call('UNLINK', idem_key(redis.call('ZPOPMIN', hashes)[1]))
  end
end

-- The bytes of a job that count towards QUEUE_MAX_BYTES until it ends: its input, wherever stored, and its parameters.
local function weight_of(record) return record.bytes + #record.params end

-- Accept a new job. The caller has called `refusal`, which checks for room and counts the jobs in flight.
local function accept(record, in_flight)
  record.turn = count(record.model, 'accepted')
  local version = (record.item or record.keep) and VERSION or PLAIN_VERSION
  record.weight = weight_of(record)
  redis.call('HSET', job_key(record.id), 'v', version, 'owner', record.owner, 'model', record.model,
    'priority', record.priority, 'status', 'PENDING', 'run', 1, 'deliveries', 0, 'strikes', 0, 'turn', record.turn,
    'params', record.params, 'reference', record.reference, 'bytes', record.bytes, 'weight', record.weight,
    'pixels', record.pixels, 'media_type', record.media_type, 'traceparent', record.traceparent, 'submitted_at', NOW)
  if record.item then redis.call('HSET', job_key(record.id), 'item', record.item) end
  if record.keep then redis.call('HSET', job_key(record.id), 'keep', 1) end
  add_to_list(record)
  if record.reference ~= '' then redis.call('PERSIST', record.reference) end
  redis.call('INCRBY', held_bytes_key(), record.weight)
  -- Dispatchers claim until nothing waits or the window is full, and a chunk that closes wakes them again. So only the
  -- first waiting job must wake them.
  if in_flight == redis.call('ZCARD', lease_key(record.model)) then wake(record.model) end
  enter_queue(record)
end
