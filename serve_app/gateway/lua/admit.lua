-- May this user go on? One request is taken from the buckets of user and house and from the day's quota, from all of
-- them or from none.
-- KEYS: blocks, overrides, the user's bucket, the user's quota, and the house's bucket where it counts
-- ARGV: principal id, the rate's name in an override, the user's interval, most submits of a day (0: any number), the
--       house's interval
-- Reply: GRANTED or why not, wait, what is missing in the user's bucket, its interval (all in µs), quota, submits of the
--        day, seconds until the next; or BLOCKED and the block.
--
-- A Redis that takes no writes (full, or its disk is) still answers reads, so writes of buckets may fail: then nothing
-- is counted until it takes them again, and submits fail by themselves.

local GRANTED, USER, HOUSE, QUOTA, BLOCKED = 0, 1, 2, 3, 4

local id, rate = ARGV[1], ARGV[2]
local interval, quota, house_interval = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local block = redis.call('HGET', KEYS[1], id)
if block then return { BLOCKED, block } end
local override = redis.call('HGET', KEYS[2], id)
if override then
  override = cjson.decode(override)
  if override[rate] then interval = math.floor(1000000 / override[rate]) end
  if rate == 'submits_per_s' then quota = override.submits_per_day or quota end
end

local clock = redis.call('TIME')
local now, day_left = clock[1] * 1000000 + clock[2], 86400 - clock[1] % 86400
local missing, after, wait = look(redis.call('GET', KEYS[3]), now, interval)
local used = quota > 0 and tonumber(redis.call('GET', KEYS[4]) or 0) or 0
if wait > 0 then return { USER, wait, missing, interval, quota, used, day_left } end
if quota > 0 and used >= quota then return { QUOTA, day_left * 1000000, missing, interval, quota, used, day_left } end
local house_after
if KEYS[5] then
  local _
  _, house_after, wait = look(redis.call('GET', KEYS[5]), now, house_interval)
  if wait > 0 then return { HOUSE, wait, missing, interval, quota, used, day_left } end
end

-- A bucket lost with its server is full: not worth a write to the disk, which every read would have to wait for.
redis.set_repl(redis.REPL_NONE)
keep(KEYS[3], now, after, interval)
if KEYS[5] then keep(KEYS[5], now, house_after, house_interval) end
if quota > 0 then
  redis.set_repl(redis.REPL_ALL)
  redis.pcall('INCR', KEYS[4])
  redis.pcall('EXPIRE', KEYS[4], day_left)
  used = used + 1
end
return { GRANTED, 0, after, interval, quota, used, day_left }
