-- A snapshot of an endpoint's deliveries: id, due time ('' when ended) and fields, first the waiting, then the ended
-- ones.
-- ARGV: endpoint
local endpoint = ARGV[1]
local found = {}
local waiting = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, LOG_MAX - 1, 'WITHSCORES')
for place = 1, #waiting, 2 do
  local id = waiting[place]
  found[#found + 1] = { id, waiting[place + 1], redis.call('HGETALL', webhook_delivery_key(id)) }
end
for _, id in ipairs(redis.call('ZREVRANGE', webhook_log_key(endpoint), 0, LOG_MAX - 1)) do
  local fields = redis.call('HGETALL', webhook_delivery_key(id))
  if fields[1] then found[#found + 1] = { id, '', fields } end
end
return found
