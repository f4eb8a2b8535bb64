-- Deliver now at the owner's request: 'queued', 'unknown' or 'full'.
-- With fields, a new delivery is made of them; without, an existing delivery starts its schedule again.
-- ARGV: owner, endpoint, delivery, then field, value …
local owner, endpoint, id = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', webhook_key(endpoint), 'owner') ~= owner then return 'unknown' end
local name = webhook_delivery_key(id)
if #ARGV == 3 and redis.call('HGET', name, 'endpoint') ~= endpoint then return 'unknown' end
local waits = redis.call('ZSCORE', webhook_queue_key(endpoint), id)
if not waits and not has_room(endpoint) then return 'full' end
if #ARGV > 3 then redis.call('HSET', name, 'endpoint', endpoint, 'at', NOW, 'attempts', 0, unpack(ARGV, 4)) end
redis.call('HSET', name, 'status', 'waiting', 'tries', 0)
enqueue(endpoint, id)
return 'queued'
