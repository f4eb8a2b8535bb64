-- Claim up to `limit` jobs under one lease: a list of jobs, empty when nothing waits or the window is full.
local model, token, limit, max_bytes, max_pixels, chunks_per_replica, cluster = ...
limit, max_bytes, max_pixels = tonumber(limit), tonumber(max_bytes), tonumber(max_pixels)
local lease, deadline = lease_key(model), NOW + LEASE_MS

-- Take back expired leases: their dispatchers are gone. Leases of a newer release's jobs are left to that release.
local function take_back_expired()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, '-inf', NOW, 'LIMIT', 0, limit)) do
    local record, version = load(id)
    if record and record.status == 'PROCESSING' then
      release_as_lost(record, 'the lease ran out')
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

-- Whether the cluster that replaced this one asks for jobs of this model: then this one claims none; see active.py.
local function other_cluster_claims()
  if cluster == '' then return false end
  redis.call('SET', asking_key(cluster, model), '1', 'PX', ACTIVE_MS)
  local active = redis.call('HGET', active_key(), 'cluster')
  return active and active ~= cluster and redis.call('EXISTS', asking_key(active, model)) == 1
end

-- The record of the job whose turn it is in this class; false when the class is empty; nil when the entry could not be
-- read and has been moved out of the way.
local function next_in_turn(priority)
  local ring = ring_key(model, priority)
  local owner = redis.call('ZRANGE', ring, 0, 0)[1]
  if not owner then return false end
  local wait = wait_key(model, priority, owner)
  local id = redis.call('ZRANGE', wait, 0, 0)[1]
  local record, version = load(id)
  if record and may(record, 'PROCESSING') then return record end
  if record then
    leave_queue({ id = id, model = model, priority = priority, owner = owner })
  elseif version then
    redis.call('ZADD', wait, count(model, 'turn'), id)
    redis.call('ZADD', ring, count(model, 'turn'), owner)
  else
    leave_queue({ id = id, model = model, priority = priority, owner = owner })
    count(model, 'dead')
  end
end

local function start(record)
  leave_queue(record)
  redis.call('ZADD', ring_key(model, record.priority), 'XX', count(model, 'turn'), record.owner)
  redis.call('ZADD', lease, deadline, record.id)
  change(record, 'PROCESSING', 'token', token, 'started_at', NOW, 'deliveries', record.deliveries + 1)
  note_change(record, 'PROCESSING')
  local more = redis.call('HMGET', job_key(record.id), 'params', 'media_type', 'traceparent')
  local alone = is_suspect(record) and '1' or '0'
  return { record.id, more[1], record.reference, record.bytes, record.pixels, more[2], more[3], alone }
end

-- A suspect is alone in its chunk, so that it can harm no other job.
local function fits(record, chunk)
  if #chunk == 0 then return true end
  if is_suspect(record) or chunk.suspect then return false end
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
        chunk.suspect = is_suspect(record)
        chunk.bytes, chunk.pixels = chunk.bytes + record.bytes, chunk.pixels + record.pixels
        chunk[#chunk + 1] = start(record)
      end
    end
  end
  return chunk
end

redis.call('ZREMRANGEBYSCORE', chunks_key(model), '-inf', NOW)
take_back_expired()
if other_cluster_claims() or window_is_full() then return {} end
if redis.call('HEXISTS', stops_key(), 'work:' .. model) == 1 then return {} end
local chunk = gather()
if #chunk > 0 then redis.call('ZADD', chunks_key(model), deadline, token) end
return chunk
