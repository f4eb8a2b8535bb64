#!lua flags=allow-oom
-- After a commit: remove the written entries from the outbox, keep the refused ones apart, and turn the count of
-- dropped usage events into one gap event, which goes to PostgreSQL like any other entry.
-- KEYS: outbox, outbox:dropped, outbox:refused, outbox:totals
-- ARGV: group, id for a gap event, most refused entries kept, number of entries, their ids ..., refused entries ...
-- allow-oom: this frees memory, so it must work when memory has run out.

local entries = tonumber(ARGV[4])
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 5, 4 + entries))
redis.call('XDEL', KEYS[1], unpack(ARGV, 5, 4 + entries))

local refused = #ARGV - 4 - entries
if refused > 0 then
  redis.call('LPUSH', KEYS[3], unpack(ARGV, 5 + entries))
  redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
  redis.call('HINCRBY', KEYS[4], 'refused', refused)
end

local gap = redis.call('HMGET', KEYS[2], 'since', 'until', 'count')
if gap[1] then
  redis.call('XADD', KEYS[1], '*', 'kind', 'gap', 'event_id', ARGV[2],
    'since', gap[1], 'until', gap[2], 'missing', gap[3])
  redis.call('DEL', KEYS[2])
end
