-- What the scripts of the webhooks share. The lines above (keys, numbers) come from store.py.

local CLOCK = redis.call('TIME')
local NOW = CLOCK[1] * 1000 + math.floor(CLOCK[2] / 1000)

local function count(name, number) redis.call('HINCRBY', webhook_totals_key(), name, number) end

-- When the endpoint is next to be served: after its first waiting delivery's turn, not before now, so that one with a
-- long queue stands behind those that have waited since.
local function plan(endpoint)
  local first = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', webhook_due_key(), math.max(NOW, first[2]), endpoint)
  else
    redis.call('ZREM', webhook_due_key(), endpoint)
  end
end

-- Whether another delivery may wait for this endpoint: the fuller the house, the fewer for one.
local function has_room(endpoint)
  local left = HOUSE_MAX - redis.call('ZCARD', webhook_waiting_key())
  return redis.call('ZCARD', webhook_queue_key(endpoint)) < math.min(QUEUE_MAX, left / HOUSE_SHARE)
end

-- Put a delivery among the waiting, due now. An endpoint that is being served is planned when that ends.
local function enqueue(endpoint, id)
  redis.call('PERSIST', webhook_delivery_key(id))
  redis.call('ZREM', webhook_log_key(endpoint), id)
  redis.call('ZADD', webhook_waiting_key(), 'NX', NOW, id)
  redis.call('ZADD', webhook_queue_key(endpoint), NOW, id)
  if redis.call('HEXISTS', webhook_key(endpoint), 'claim') == 0 then plan(endpoint) end
end

-- End a delivery: it leaves the waiting for the log, whose oldest leave.
local function conclude(endpoint, id, status)
  redis.call('ZREM', webhook_queue_key(endpoint), id)
  redis.call('ZREM', webhook_waiting_key(), id)
  redis.call('HDEL', webhook_delivery_key(id), 'claim')
  redis.call('HSET', webhook_delivery_key(id), 'status', status)
  redis.call('EXPIRE', webhook_delivery_key(id), LOG_TTL_S)
  redis.call('ZADD', webhook_log_key(endpoint), NOW, id)
  redis.call('EXPIRE', webhook_log_key(endpoint), LOG_TTL_S)
  while redis.call('ZCARD', webhook_log_key(endpoint)) > LOG_MAX do
    redis.call('UNLINK', webhook_delivery_key(redis.call('ZPOPMIN', webhook_log_key(endpoint))[1]))
  end
  count(status, 1)
end

-- Remove these deliveries, of which no log tells. In parts: a call of Redis takes some thousand names, not any number.
local function forget(endpoint, ids)
  for first = 1, #ids, 1000 do
    local part, records = {}, {}
    for place = first, math.min(first + 999, #ids) do
      part[#part + 1], records[#records + 1] = ids[place], webhook_delivery_key(ids[place])
    end
    redis.call('ZREM', webhook_queue_key(endpoint), unpack(part))
    redis.call('ZREM', webhook_waiting_key(), unpack(part))
    redis.call('UNLINK', unpack(records))
  end
end

-- Switch an endpoint off; what waits for it ends as failed, and the log keeps as many as it would of any.
local function disable(endpoint, reason)
  redis.call('HSET', webhook_key(endpoint), 'disabled_at', NOW, 'disabled_why', reason)
  local beyond = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, -(LOG_MAX + 1))
  forget(endpoint, beyond)
  count('failed', #beyond)
  for _, id in ipairs(redis.call('ZRANGE', webhook_queue_key(endpoint), 0, -1)) do conclude(endpoint, id, 'failed') end
end
