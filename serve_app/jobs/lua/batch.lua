-- Effects of a job's end on its batch. `item` is `batch/index`, as in the job's record.

local function parts_of(item)
  local batch, index = string.match(item, '^([^/]+)/(%d+)$')
  return batch, index
end

-- An item has ended. The last one ends the batch, which then has the TTL of an ended job. `run`: that of the job.
local function finish_item(item, now, status, slug, detail, run)
  local batch, index = parts_of(item)
  if redis.call('EXISTS', batch_key(batch)) == 0 then return end
  redis.call('HSET', items_key(batch), index .. ':end',
    cjson.encode({ status = status, slug = slug or '', detail = detail or '', run = run }))
  if redis.call('HINCRBY', batch_key(batch), 'open', -1) == 0 then
    redis.call('HSET', batch_key(batch), 'completed_at', now)
    redis.call('EXPIRE', batch_key(batch), JOB_TTL_S)
    redis.call('EXPIRE', items_key(batch), JOB_TTL_S)
  end
end

-- An item's job runs again, so its batch is open again, unless it has expired.
local function reopen_item(item)
  local batch, index = parts_of(item)
  if redis.call('EXISTS', batch_key(batch)) == 0 then return end
  redis.call('HDEL', items_key(batch), index .. ':end')
  redis.call('HINCRBY', batch_key(batch), 'open', 1)
  redis.call('HDEL', batch_key(batch), 'completed_at')
  redis.call('PERSIST', batch_key(batch))
  redis.call('PERSIST', items_key(batch))
end

-- Queue an item whose URL is to be fetched. Owners take turns.
local function queue_fetch(item, owner, now_us)
  redis.call('ZADD', fetch_key(owner), now_us, item)
  redis.call('ZADD', fetch_ring_key(), 'NX', now_us, owner)
end

-- An item no longer needs a fetch: remove its URL, and stop counting its parameters towards QUEUE_MAX_BYTES.
local function end_fetch(item, owner)
  redis.call('ZREM', fetching_key(), item)
  redis.call('ZREM', fetch_key(owner), item)
  if redis.call('EXISTS', fetch_key(owner)) == 0 then redis.call('ZREM', fetch_ring_key(), owner) end
  redis.call('DECR', fetches_key())
  local batch, index = parts_of(item)
  local asked = cjson.decode(redis.call('HGET', items_key(batch), index))
  redis.call('DECRBY', held_bytes_key(), asked.weight or 0)
  redis.call('HSET', items_key(batch), index, cjson.encode({ name = asked.name }))
end

-- Whether an item is still to be fetched: it has no job and has not ended.
local function awaits_fetch(item)
  local batch, index = parts_of(item)
  local known = redis.call('HMGET', items_key(batch), index, index .. ':job', index .. ':end')
  return known[1] and not known[2] and not known[3]
end

-- The size of a batch of this owner; else nil and the reason, as in `load_owned`.
local function owned_batch_size(batch, owner)
  local known = redis.call('HMGET', batch_key(batch), 'owner', 'v', 'size')
  if known[1] ~= owner then return nil, 'unknown' end
  if known[2] + 0 > VERSION then return nil, 'foreign' end
  return known[3] + 0
end
