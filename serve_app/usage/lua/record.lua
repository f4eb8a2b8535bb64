#!lua flags=allow-oom
-- Add usage events to the outbox, and count those for which the outbox, or a gateway's spool, had no room.
-- Reply: how many of them, from the first on, were added.
-- KEYS: outbox, outbox:dropped, outbox:totals
-- ARGV: most entries of the outbox; number of events that the spool dropped, from and until when in ms; then the
-- events, each a JSON object
-- allow-oom: OUTBOX_MAX already bounds these events, and a full image store must not stop the bookkeeping.

local room = math.max(0, tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1]))
local stored = math.min(room, #ARGV - 4)
for position = 5, stored + 4 do
  redis.call('XADD', KEYS[1], '*', 'kind', 'usage', 'event', ARGV[position])
end

local function count(number, since, upto)
  local known = redis.call('HMGET', KEYS[2], 'since', 'until')
  redis.call('HINCRBY', KEYS[2], 'count', number)
  if not known[1] or tonumber(since) < tonumber(known[1]) then
    redis.call('HSET', KEYS[2], 'since', since)
  end
  if not known[2] or tonumber(upto) > tonumber(known[2]) then
    redis.call('HSET', KEYS[2], 'until', upto)
  end
  redis.call('HINCRBY', KEYS[3], 'dropped', number)
end

local dropped = #ARGV - 4 - stored
if dropped > 0 then
  local time = redis.call('TIME')
  local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
  count(dropped, now, now)
end
if tonumber(ARGV[2]) > 0 then
  count(ARGV[2], ARGV[3], ARGV[4])
end
return stored
