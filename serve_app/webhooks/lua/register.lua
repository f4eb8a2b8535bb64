-- Store a new endpoint: its time of creation, or 'full'.
-- ARGV: owner, endpoint, URL, events, secret
local owner, endpoint, url, events, secret = unpack(ARGV)
if redis.call('ZCARD', webhooks_key(owner)) >= ENDPOINTS_MAX then return 'full' end
redis.call('HSET', webhook_key(endpoint), 'owner', owner, 'url', url, 'events', events, 'secret', secret,
  'created_at', NOW)
redis.call('ZADD', webhooks_key(owner), NOW, endpoint)
return NOW
