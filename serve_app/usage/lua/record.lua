#!lua flags=allow-oom
-- Puts one usage event into the outbox, or counts it where the outbox is full. 1: stored, 0: counted.
-- KEYS: outbox, outbox:dropped, outbox:totals
-- ARGV: most entries of the outbox, then field, value, field, value ...
-- allow-oom: OUTBOX_MAX bounds these events already, and a full image store must not take the bookkeeping with it.

if redis.call('XLEN', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('XADD', KEYS[1], '*', 'kind', 'usage', unpack(ARGV, 2))
  return 1
end

local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
redis.call('HINCRBY', KEYS[2], 'count', 1)
redis.call('HSETNX', KEYS[2], 'since', now)
redis.call('HSET', KEYS[2], 'until', now)
redis.call('HINCRBY', KEYS[3], 'dropped', 1)
return 0
