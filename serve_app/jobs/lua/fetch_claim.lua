-- Claim up to `limit` items whose URL is to be fetched, owner by owner: {item, its request, owner, model, priority,
-- traceparent}, … A claim lasts FETCH_LEASE_MS; then another gateway may claim the item. An item that could not become
-- a job now is not fetched: it moves behind its owner's other items. The `busy` owners have enough fetches under way
-- and keep their turn.
local limit = ...
local busy, is_busy = { select(2, ...) }, {}
for _, owner in ipairs(busy) do is_busy[owner] = true end
limit = tonumber(limit)
local MORE_LOOKS = 50 -- more items to look at, because some could not become a job now

-- The batch of an item to be fetched has expired, and the item with it.
local function forget_fetch() redis.call('DECR', fetches_key()) end

local function return_expired()
  for _, item in ipairs(redis.call('ZRANGEBYSCORE', fetching_key(), '-inf', NOW, 'LIMIT', 0, limit)) do
    redis.call('ZREM', fetching_key(), item)
    local owner = redis.call('HGET', batch_key((parts_of(item))), 'owner')
    if owner then queue_fetch(item, owner, NOW_US) else forget_fetch() end
  end
end

local function next_in_turn(turn)
  local owner
  for _, one in ipairs(redis.call('ZRANGE', fetch_ring_key(), 0, #busy)) do
    if not is_busy[one] then
      owner = one
      break
    end
  end
  if not owner then return nil end
  local item = redis.call('ZPOPMIN', fetch_key(owner))[1]
  if redis.call('EXISTS', fetch_key(owner)) == 0 then
    redis.call('ZREM', fetch_ring_key(), owner)
  else
    redis.call('ZADD', fetch_ring_key(), 'XX', turn, owner)
  end
  return item
end

local closed = {}
local function takes_jobs(model)
  if closed[model] == nil then closed[model] = refusal(model, 0) ~= nil end
  return not closed[model]
end

return_expired()
local taken = {}
for look = 1, limit + MORE_LOOKS do
  local item = #taken < limit and next_in_turn(NOW_US + look)
  if not item then break end
  local batch, index = parts_of(item)
  local known = redis.call('HMGET', batch_key(batch), 'owner', 'model', 'priority', 'traceparent')
  if not known[1] then
    forget_fetch()
  elseif takes_jobs(known[2]) then
    redis.call('ZADD', fetching_key(), NOW + FETCH_LEASE_MS, item)
    taken[#taken + 1] = { item, redis.call('HGET', items_key(batch), index), unpack(known) }
  else
    queue_fetch(item, known[1], NOW_US + look)
  end
end
return taken
