-- Forget an endpoint and all its deliveries: 1, or 0 when the owner has no such endpoint.
-- ARGV: owner, endpoint
local owner, endpoint = unpack(ARGV)
if redis.call('ZREM', endpoints_key(owner), endpoint) == 0 then return 0 end
forget(endpoint, redis.call('ZRANGE', queue_key(endpoint), 0, -1))
forget(endpoint, redis.call('ZRANGE', log_key(endpoint), 0, -1))
redis.call('ZREM', due_key(), endpoint)
redis.call('UNLINK', endpoint_key(endpoint), queue_key(endpoint), log_key(endpoint))
return 1
