-- Turn events into deliveries, then claim up to `most` due deliveries, one per endpoint that has none under way.
-- Reply: for each delivery its id, the fields of its endpoint, and its own.
-- ARGV: token, most, most of them to receivers that were slow last time
local token, most, most_slow = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- The id is derived from event and endpoint, so reading an event twice makes no second delivery.
local function fan_out(fields)
  local event = {}
  for place = 1, #fields, 2 do event[fields[place]] = fields[place + 1] end
  for _, endpoint in ipairs(redis.call('ZRANGE', webhooks_key(event.owner), 0, -1)) do
    local kept = redis.call('HMGET', webhook_key(endpoint), 'events', 'disabled_at')
    if kept[1] and not kept[2] and string.find(',' .. kept[1] .. ',', ',' .. event.type .. ',', 1, true) then
      local id = 'msg_' .. string.sub(redis.sha1hex(event.job_id .. ':' .. event.run .. ':' .. endpoint), 1, 32)
      if has_room(endpoint) then
        redis.call('HSET', webhook_delivery_key(id), 'endpoint', endpoint, 'type', event.type, 'at', event.at,
          'status', 'waiting', 'job_id', event.job_id, 'job_status', event.status, 'model', event.model,
          'attempts', 0, 'tries', 0)
        enqueue(endpoint, id)
      else
        redis.call('HINCRBY', webhook_key(endpoint), 'dropped', 1)
        count('dropped', 1)
      end
    end
  end
end

for _, entry in ipairs(redis.call('XRANGE', webhook_events_key(), '-', '+', 'COUNT', 250)) do
  redis.call('XDEL', webhook_events_key(), entry[1])
  fan_out(entry[2])
end

local claimed, slow_claimed = {}, 0
-- True when slow receivers already have their share of the claims: this one is put off, so that it delays no other.
local function must_step_back(endpoint)
  if redis.call('HEXISTS', webhook_key(endpoint), 'slow') == 0 then return false end
  slow_claimed = slow_claimed + 1
  return slow_claimed > most_slow
end

-- The owner of an endpoint that was slow last time or has never succeeded; else nil.
local function unproven(endpoint)
  local known = redis.call('HMGET', webhook_key(endpoint), 'owner', 'delivered_at', 'slow')
  return (known[3] or not known[2]) and known[1] or nil
end

local function is_served(endpoint)
  return redis.call('HEXISTS', webhook_key(endpoint), 'claim') == 1
    and NOW - (redis.call('ZSCORE', webhook_due_key(), endpoint) or 0) < 0
end

-- True when this owner's unproven endpoints already have their share of the deliveries under way.
local function must_wait(endpoint)
  local owner, served = unproven(endpoint), 0
  if not owner then return false end
  for _, other in ipairs(redis.call('ZRANGE', webhooks_key(owner), 0, -1)) do
    if unproven(other) and is_served(other) then served = served + 1 end
  end
  return served >= OWNER_UNPROVEN_AT_ONCE
end

local function serve(endpoint)
  local id = redis.call('ZRANGEBYSCORE', webhook_queue_key(endpoint), '-inf', NOW, 'LIMIT', 0, 1)[1]
  if not id then
    redis.call('HDEL', webhook_key(endpoint), 'claim')
    schedule(endpoint)
  elseif must_wait(endpoint) then
    redis.call('ZADD', webhook_due_key(), NOW + 1, endpoint) -- behind all that are due, before those under way
  elseif must_step_back(endpoint) then
    redis.call('ZADD', webhook_due_key(), NOW + STEP_BACK_MS, endpoint)
  else
    redis.call('ZADD', webhook_due_key(), NOW + CLAIM_MS, endpoint)
    redis.call('HSET', webhook_key(endpoint), 'claim', token)
    local fields, delivery = redis.call('HGETALL', webhook_key(endpoint)), redis.call('HGETALL', webhook_delivery_key(id))
    claimed[#claimed + 1] = { id, fields, delivery }
  end
end

for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', webhook_due_key(), '-inf', NOW, 'LIMIT', 0, most)) do
  serve(endpoint)
end
return claimed
