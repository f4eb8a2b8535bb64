-- An endpoint's deliveries at one moment: id, due or '' and fields of those that wait, then of those that ended.
-- ARGV: endpoint
local endpoint = ARGV[1]
local found = {}
local waiting = redis.call('ZRANGE', webhook_queue_key(endpoint), 0, LOG_MAX - 1, 'WITHSCORES')
for place = 1, #waiting, 2 do
  found[#found + 1] = { waiting[place], waiting[place + 1], redis.call('HGETALL', webhook_delivery_key(waiting[place])) }
end
for _, id in ipairs(redis.call('ZREVRANGE', webhook_log_key(endpoint), 0, LOG_MAX - 1)) do
  local fields = redis.call('HGETALL', webhook_delivery_key(id))
  if fields[1] then found[#found + 1] = { id, '', fields } end
end
return found
