-- Make deliveries of what ended, then claim up to `most` that are due, one for each endpoint that nobody serves.
-- Reply: for each delivery its id, the fields of its endpoint, and its own.
-- ARGV: most, token
local most, token = tonumber(ARGV[1]), ARGV[2]

-- The id is made of event and endpoint: whoever reads the event again makes no second delivery.
local function spread(fields)
  local event = {}
  for place = 1, #fields, 2 do event[fields[place]] = fields[place + 1] end
  for _, endpoint in ipairs(redis.call('ZRANGE', endpoints_key(event.owner), 0, -1)) do
    local kept = redis.call('HMGET', endpoint_key(endpoint), 'events', 'disabled_at')
    if kept[1] and not kept[2] and string.find(',' .. kept[1] .. ',', ',' .. event.type .. ',', 1, true) then
      local id = 'msg_' .. string.sub(redis.sha1hex(event.job_id .. ':' .. event.run .. ':' .. endpoint), 1, 32)
      if has_room(endpoint) then
        redis.call('HSET', delivery_key(id), 'endpoint', endpoint, 'type', event.type, 'at', event.at, 'status',
          'waiting', 'job_id', event.job_id, 'job_status', event.status, 'model', event.model, 'attempts', 0, 'tries', 0)
        enqueue(endpoint, id)
      else
        redis.call('HINCRBY', endpoint_key(endpoint), 'dropped', 1)
        count('dropped', 1)
      end
    end
  end
end

for _, entry in ipairs(redis.call('XRANGE', events_key(), '-', '+', 'COUNT', 250)) do
  redis.call('XDEL', events_key(), entry[1])
  spread(entry[2])
end

local claimed = {}
for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', due_key(), '-inf', NOW, 'LIMIT', 0, most)) do
  local id = redis.call('ZRANGEBYSCORE', queue_key(endpoint), '-inf', NOW, 'LIMIT', 0, 1)[1]
  if id then
    redis.call('ZADD', due_key(), NOW + CLAIM_MS, endpoint)
    redis.call('HSET', endpoint_key(endpoint), 'claim', token)
    claimed[#claimed + 1] = { id, redis.call('HGETALL', endpoint_key(endpoint)), redis.call('HGETALL', delivery_key(id)) }
  else
    redis.call('HDEL', endpoint_key(endpoint), 'claim')
    plan(endpoint)
  end
end
return claimed
