-- Whether a gateway's cluster is the active one, 1 or 0; and since when it serves users, or ''. `serves`: the gateway
-- has answered a user; `known`: the time that an earlier call replied, in case Redis has lost it.
local cluster, serves, known = ...
redis.call('HDEL', active_key(), '')  -- a full Redis runs a script to its end if the first write is a removal

local serving = serving_key(cluster)
local since = tonumber(redis.call('GET', serving)) or tonumber(known) or (serves == '1' and NOW_US)
if since then redis.call('SET', serving, string.format('%d', since), 'PX', ACTIVE_MS) end

local active, active_since = unpack(redis.call('HMGET', active_key(), 'cluster', 'since'))
if active == cluster or (since and (not active or tonumber(active_since) < since)) then
  redis.call('HSET', active_key(), 'cluster', cluster, 'since', string.format('%d', since or active_since))
  redis.call('PEXPIRE', active_key(), ACTIVE_MS)
  active = cluster
end
return { (not active or active == cluster) and 1 or 0, since and string.format('%d', since) or '' }
