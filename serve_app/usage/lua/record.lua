#!lua flags=allow-oom
-- Puts usage events into the outbox, and counts those for which it has no room. Reply: how many it took, the first ones.
-- KEYS: outbox, outbox:dropped, outbox:totals
-- ARGV: most entries of the outbox, then the events, each a JSON object
-- allow-oom: OUTBOX_MAX bounds these events already, and a full image store must not take the bookkeeping with it.

local room = math.max(0, tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1]))
local stored = math.min(room, #ARGV - 1)
for position = 2, stored + 1 do
  redis.call('XADD', KEYS[1], '*', 'kind', 'usage', 'event', ARGV[position])
end

local dropped = #ARGV - 1 - stored
if dropped > 0 then
  local time = redis.call('TIME')
  local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
  redis.call('HINCRBY', KEYS[2], 'count', dropped)
  redis.call('HSETNX', KEYS[2], 'since', now)
  redis.call('HSET', KEYS[2], 'until', now)
  redis.call('HINCRBY', KEYS[3], 'dropped', dropped)
end
return stored
