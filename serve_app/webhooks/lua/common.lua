-- Shared by the scripts of the webhooks. The lines above (keys, numbers) come from store.py.

local CLOCK = redis.call('TIME')
local NOW = CLOCK[1] * 1000 + math.floor(CLOCK[2] / 1000)

local function count(name, number) redis.call('HINCRBY', webhook_totals_key(), name, number) end

-- Schedule the endpoint for its first waiting delivery, at the earliest now: an endpoint with a long queue then stands
-- behind those that became due meanwhile.
local function schedule(endpoint)
  local first = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', webhook_due_key(), math.max(NOW, first[2]), endpoint)
  else
    redis.call('ZREM', webhook_due_key(), endpoint)
  end
end

-- Whether another delivery may wait for this endpoint: the more wait in all, the fewer may wait for one endpoint.
local function has_room(endpoint)
  local left = WAITING_MAX - redis.call('ZCARD', webhook_waiting_key())
  return redis.call('ZCARD', webhook_queue_key(endpoint)) < math.min(QUEUE_MAX, left / WAITING_SHARE)
end

-- Queue a delivery, due now. An endpoint with a delivery under way is scheduled when that ends.
local function enqueue(endpoint, id)
  redis.call('PERSIST', webhook_delivery_key(id))
  redis.call('ZREM', webhook_log_key(endpoint), id)
  redis.call('ZADD', webhook_waiting_key(), 'NX', NOW, id)
  redis.call('ZADD', webhook_queue_key(endpoint), NOW, id)
  if redis.call('HEXISTS', webhook_key(endpoint), 'claim') == 0 then schedule(endpoint) end
end

-- End a delivery: it moves from the queue to the log, which drops its oldest entries.
local function end_delivery(endpoint, id, status)
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

-- Remove these deliveries without logging them. In parts: one command takes a few thousand names, not any number.
local function remove_deliveries(endpoint, ids)
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

-- Disable an endpoint: its waiting deliveries end as failed, and the log keeps its usual number of them.
local function disable(endpoint, reason)
  redis.call('HSET', webhook_key(endpoint), 'disabled_at', NOW, 'disabled_why', reason)
  local beyond = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, -(LOG_MAX + 1))
  remove_deliveries(endpoint, beyond)
  count('failed', #beyond)
  for _, id in ipairs(redis.call('ZRANGE', webhook_queue_key(endpoint), 0, -1)) do
    end_delivery(endpoint, id, 'failed')
  end
end
