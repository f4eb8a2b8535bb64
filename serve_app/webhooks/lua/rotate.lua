-- Give an endpoint a new secret; the old one stays valid for a while: 1, or 0 when the owner has no such endpoint.
-- ARGV: owner, endpoint, secret
local owner, endpoint, secret = unpack(ARGV)
local name = webhook_key(endpoint)
if redis.call('HGET', name, 'owner') ~= owner then return 0 end
redis.call('HSET', name, 'older_secret', redis.call('HGET', name, 'secret'), 'older_until', NOW + OLDER_SECRET_MS,
  'secret', secret)
return 1
