-- Claim up to `limit` jobs under one lease: a list of jobs, empty when nothing waits or the window is full.
local model, token = ARGV[1], ARGV[2]
local limit, max_bytes, max_pixels = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local chunks_per_replica, cluster = tonumber(ARGV[6]), ARGV[7]
local lease, deadline = lease_key(model), NOW + LEASE_MS

-- Leases of dispatchers that are gone. Those of a newer release's jobs are left to it.
local function take_back_expired()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, '-inf', NOW, 'LIMIT', 0, limit)) do
    local record, version = load(id)
    if record and record.status == 'PROCESSING' then
      lose(record, 'the lease ran out')
    elseif record then
      redis.call('ZREM', lease, id)
    elseif version then
      redis.call('ZADD', lease, deadline, id)
    else
      redis.call('ZREM', lease, id)
      count(model, 'dead')
    end
  end
end

local function window_is_full()
  local replicas = redis.call('ZCOUNT', replicas_key(model), NOW, '+inf')
  return redis.call('ZCARD', chunks_key(model)) >= math.max(1, replicas * chunks_per_replica)
end

-- Leaves jobs to the cluster that replaced this one, as long as that one asks for them; see active.py.
local function another_takes_them()
  if cluster == '' then return false end
  redis.call('SET', asking_key(cluster, model), '1', 'PX', ACTIVE_MS)
  local active = redis.call('HGET', active_key(), 'cluster')
  return active and active ~= cluster and redis.call('EXISTS', asking_key(active, model)) == 1
end

-- The job whose turn it is in this class: its record; or false when the class is empty; or nil when what stood there
-- could not be read and is out of the way now.
local function next_in_turn(priority)
  local ring = ring_key(model, priority)
  local owner = redis.call('ZRANGE', ring, 0, 0)[1]
  if not owner then return false end
  local wait = wait_key(model, priority, owner)
  local id = redis.call('ZRANGE', wait, 0, 0)[1]
  local record, version = load(id)
  if record and may(record, 'PROCESSING') then return record end
  if record then
    leave({ id = id, model = model, priority = priority, owner = owner })
  elseif version then
    redis.call('ZADD', wait, count(model, 'turn'), id)
    redis.call('ZADD', ring, count(model, 'turn'), owner)
  else
    leave({ id = id, model = model, priority = priority, owner = owner })
    count(model, 'dead')
  end
end

local function start(record)
  leave(record)
  redis.call('ZADD', ring_key(model, record.priority), 'XX', count(model, 'turn'), record.owner)
  redis.call('ZADD', lease, deadline, record.id)
  change(record, 'PROCESSING', 'token', token, 'started_at', NOW, 'deliveries', record.deliveries + 1)
  tell(record, 'PROCESSING')
  local more = redis.call('HMGET', job_key(record.id), 'params', 'media_type', 'traceparent')
  local alone = suspect(record) and '1' or '0'
  return { record.id, more[1], record.reference, record.bytes, record.pixels, more[2], more[3], alone }
end

-- A suspect travels in a chunk of its own: what happens to it happens to nobody else.
local function fits(record, chunk)
  if #chunk == 0 then return true end
  if suspect(record) or chunk.suspect then return false end
  return chunk.bytes + record.bytes <= max_bytes and chunk.pixels + record.pixels <= max_pixels
end

local function gather()
  local chunk = { bytes = 0, pixels = 0 }
  local looks = 2 * limit
  for _, priority in ipairs(PRIORITIES) do
    while #chunk < limit and looks > 0 do
      looks = looks - 1
      local record = next_in_turn(priority)
      if record == false then break end
      if record then
        if not fits(record, chunk) then return chunk end
        chunk.suspect = suspect(record)
        chunk.bytes, chunk.pixels = chunk.bytes + record.bytes, chunk.pixels + record.pixels
        chunk[#chunk + 1] = start(record)
      end
    end
  end
  return chunk
end

redis.call('ZREMRANGEBYSCORE', chunks_key(model), '-inf', NOW)
take_back_expired()
if another_takes_them() or window_is_full() then return {} end
if redis.call('HEXISTS', stops_key(), 'work:' .. model) == 1 then return {} end
local chunk = gather()
if #chunk > 0 then redis.call('ZADD', chunks_key(model), deadline, token) end
return chunk
