-- Remove an endpoint and all its deliveries: 1, or 0 when the owner has no such endpoint.
-- ARGV: owner, endpoint
local owner, endpoint = unpack(ARGV)
if redis.call('ZREM', webhooks_key(owner), endpoint) == 0 then return 0 end
remove_deliveries(endpoint, redis.call('ZRANGE', webhook_queue_key(endpoint), 0, -1))
remove_deliveries(endpoint, redis.call('ZRANGE', webhook_log_key(endpoint), 0, -1))
redis.call('ZREM', webhook_due_key(), endpoint)
redis.call('UNLINK', webhook_key(endpoint), webhook_queue_key(endpoint), webhook_log_key(endpoint))
return 1
