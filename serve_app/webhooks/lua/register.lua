-- Keep a new endpoint: when it was made, or 'full'.
-- ARGV: owner, endpoint, URL, events, secret
local owner, endpoint, url, events, secret = unpack(ARGV)
if redis.call('ZCARD', endpoints_key(owner)) >= ENDPOINTS_MAX then return 'full' end
redis.call('HSET', endpoint_key(endpoint), 'owner', owner, 'url', url, 'events', events, 'secret', secret,
  'created_at', NOW)
redis.call('ZADD', endpoints_key(owner), NOW, endpoint)
return NOW
