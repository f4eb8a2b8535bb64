-- Give back what was charged for a submit that created nothing.
-- KEYS: as those of admit.lua
-- ARGV: the user's interval, most submits of a day (0: any number), submits to take off the day's count, requests to put
--       back into the bucket, seconds that were left of the day when they were counted
-- Reply: as that of admit.lua.

local GRANTED = 0

local interval, quota, submits, requests = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now, day_left = clock[1] * 1000000 + clock[2], 86400 - clock[1] % 86400
local missing = read_bucket(redis.call('GET', KEYS[3]), now, interval)
if requests > 0 then
  missing = math.max(missing - requests * interval, 0)
  redis.set_repl(redis.REPL_NONE)
  write_bucket(KEYS[3], now, missing, interval)
end
local used = quota > 0 and tonumber(redis.call('GET', KEYS[4]) or 0) or 0
local back = day_left <= tonumber(ARGV[5]) and math.min(submits, used) or 0 -- each day has its own count
if back > 0 then
  redis.set_repl(redis.REPL_ALL)
  redis.pcall('DECRBY', KEYS[4], back)
  used = used - back
end
return { GRANTED, 0, missing, interval, quota, used, day_left }
