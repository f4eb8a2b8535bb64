-- Record the outcome of an attempt and release its endpoint: 1, or 0 when the claim had passed to another sender.
-- ARGV: token, endpoint, delivery, 'delivered' | 'retry' | 'failed' | 'gone', pause in ms before the next, ms that
-- the attempt took, and what the log keeps of it, as JSON
local token, endpoint, id, outcome, pause, took, attempt = unpack(ARGV)
if redis.call('HGET', webhook_key(endpoint), 'claim') ~= token then return 0 end
redis.call('HDEL', webhook_key(endpoint), 'claim', 'slow')
if took - SLOW_MS > 0 then redis.call('HSET', webhook_key(endpoint), 'slow', 1) end

local name = webhook_delivery_key(id)
local number = redis.call('HINCRBY', name, 'attempts', 1)
redis.call('HINCRBY', name, 'tries', 1)
redis.call('HSET', name, 'attempt:' .. number, attempt)
redis.call('HDEL', name, 'attempt:' .. (number - ATTEMPTS_SHOWN))

local facts = redis.call('HMGET', webhook_key(endpoint), 'disabled_at', 'delivered_at')
if outcome == 'delivered' then
  redis.call('HDEL', webhook_key(endpoint), 'disabled_at', 'disabled_why')
  redis.call('HSET', webhook_key(endpoint), 'delivered_at', NOW)
  end_delivery(endpoint, id, 'delivered')
elseif outcome == 'gone' then
  end_delivery(endpoint, id, 'failed')
  disable(endpoint, 'The receiver answered 410 Gone.')
elseif outcome == 'failed' then
  local made = redis.call('HGET', name, 'at')
  end_delivery(endpoint, id, 'failed')
  if (facts[2] or 0) - made < 0 then
    disable(endpoint, 'A delivery failed at its last attempt, and none before it was taken since.')
  end
elseif facts[1] then
  end_delivery(endpoint, id, 'failed')
else
  redis.call('ZADD', webhook_queue_key(endpoint), NOW + pause, id)
end
schedule(endpoint)
return 1
