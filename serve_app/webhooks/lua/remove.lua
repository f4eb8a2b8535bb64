-- Forget an endpoint and all its deliveries: 1, or 0 when the owner has no such endpoint.
-- ARGV: owner, endpoint
local owner, endpoint = unpack(ARGV)
if redis.call('ZREM', endpoints_key(owner), endpoint) == 0 then return 0 end
for _, id in ipairs(redis.call('ZRANGE', queue_key(endpoint), 0, -1)) do
  redis.call('ZREM', waiting_key(), id)
  redis.call('UNLINK', delivery_key(id))
end
for _, id in ipairs(redis.call('ZRANGE', log_key(endpoint), 0, -1)) do redis.call('UNLINK', delivery_key(id)) end
redis.call('ZREM', due_key(), endpoint)
redis.call('UNLINK', endpoint_key(endpoint), queue_key(endpoint), log_key(endpoint))
return 1
