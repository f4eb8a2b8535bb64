-- Charge an admitted user for more requests, in the bucket and in the day's quota: for all of them or none. The bucket
-- may go into debt, so that a batch need not fit into it; the user's next request waits until the debt is paid.
-- KEYS, ARGV and reply: as in admit.lua, with the number of requests as the last of ARGV. The bucket of all users is
-- not charged: one user's batch must not make others wait.

local GRANTED, QUOTA = 0, 3

local rate, interval, quota, more = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local override = redis.call('HGET', KEYS[2], ARGV[1])
if override then
  override = cjson.decode(override)
  if override[rate] then interval = math.floor(1000000 / override[rate]) end
  quota = override.submits_per_day or quota
end
local clock = redis.call('TIME')
local now, day_left = clock[1] * 1000000 + clock[2], 86400 - clock[1] % 86400
local missing = read_bucket(redis.call('GET', KEYS[3]), now, interval)
local used = quota > 0 and tonumber(redis.call('GET', KEYS[4]) or 0) or 0
if quota > 0 and used + more > quota then
  return { QUOTA, day_left * 1000000, missing, interval, quota, used, day_left }
end
missing = missing + more * interval
redis.set_repl(redis.REPL_NONE)
write_bucket(KEYS[3], now, missing, interval)
if quota > 0 then
  redis.set_repl(redis.REPL_ALL)
  redis.pcall('INCRBY', KEYS[4], more)
  redis.pcall('EXPIRE', KEYS[4], day_left)
  used = used + more
end
return { GRANTED, 0, missing, interval, quota, used, day_left }
