-- Take up to `limit` items whose URL is to be fetched, owner by owner: {item, what it asks for, owner, model, priority,
-- traceparent}, … Whoever takes one has FETCH_LEASE_MS; then it is another's to take.
local limit = tonumber(ARGV[1])

local function return_expired()
  for _, item in ipairs(redis.call('ZRANGEBYSCORE', fetching_key(), '-inf', NOW, 'LIMIT', 0, limit)) do
    redis.call('ZREM', fetching_key(), item)
    local owner = redis.call('HGET', batch_key((parts_of(item))), 'owner')
    if owner then enter_fetch(item, owner, NOW_US) else redis.call('DECR', fetches_key()) end
  end
end

local function next_in_turn(turn)
  local owner = redis.call('ZRANGE', fetch_ring_key(), 0, 0)[1]
  if not owner then return nil end
  local item = redis.call('ZPOPMIN', fetch_key(owner))[1]
  if redis.call('EXISTS', fetch_key(owner)) == 0 then
    redis.call('ZREM', fetch_ring_key(), owner)
  else
    redis.call('ZADD', fetch_ring_key(), 'XX', turn, owner)
  end
  return item
end

return_expired()
local taken = {}
while #taken < limit do
  local item = next_in_turn(NOW_US + #taken)
  if not item then break end
  local batch, index = parts_of(item)
  redis.call('ZADD', fetching_key(), NOW + FETCH_LEASE_MS, item)
  taken[#taken + 1] = { item, redis.call('HGET', items_key(batch), index),
    unpack(redis.call('HMGET', batch_key(batch), 'owner', 'model', 'priority', 'traceparent')) }
end
return taken
