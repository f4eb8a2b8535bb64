-- Extend the lease of a chunk and of those of its jobs that it still holds: their ids.
local model, token = ...
local deadline = NOW + LEASE_MS

redis.call('ZREM', chunks_key(model), token)
local ours = {}
for _, id in ipairs({ select(3, ...) }) do
  if load_held(id, token) then
    redis.call('ZADD', lease_key(model), deadline, id)
    ours[#ours + 1] = id
  end
end
redis.call('ZADD', chunks_key(model), deadline, token)
return ours
