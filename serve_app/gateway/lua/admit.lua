-- Whether a request is admitted. It is taken from the user's bucket, the bucket of all users and the day's quota: from
-- all of them or from none.
-- KEYS: blocks, overrides, the user's bucket, the user's quota, and the bucket of all users where it counts
-- ARGV: principal id, the rate's name in an override, the user's interval, most submits of a day (0: any number), the
--       interval of all users
-- Reply: GRANTED or the reason for refusal, wait, what is missing in the user's bucket, its interval (all in µs),
--        quota, submits of the day, seconds until the next day; or BLOCKED and the block.
--
-- A Redis that refuses writes (its memory or disk is full) still answers reads, so writing a bucket may fail: nothing
-- is counted until writes work again, and submits fail on their own write.

local GRANTED, USER, ALL_USERS, QUOTA, BLOCKED = 0, 1, 2, 3, 4

local id, rate = ARGV[1], ARGV[2]
local interval, quota, all_interval = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
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
local missing, after, wait = read_bucket(redis.call('GET', KEYS[3]), now, interval)
local used = quota > 0 and tonumber(redis.call('GET', KEYS[4]) or 0) or 0
if wait > 0 then return { USER, wait, missing, interval, quota, used, day_left } end
if quota > 0 and used >= quota then return { QUOTA, day_left * 1000000, missing, interval, quota, used, day_left } end
local all_after
if KEYS[5] then
  local _
  _, all_after, wait = read_bucket(redis.call('GET', KEYS[5]), now, all_interval)
  if wait > 0 then return { ALL_USERS, wait, missing, interval, quota, used, day_left } end
end

-- A bucket lost with its server starts full. That is not worth a write to disk, which every read would wait for.
redis.set_repl(redis.REPL_NONE)
write_bucket(KEYS[3], now, after, interval)
if KEYS[5] then write_bucket(KEYS[5], now, all_after, all_interval) end
if quota > 0 then
  redis.set_repl(redis.REPL_ALL)
  redis.pcall('INCR', KEYS[4])
  redis.pcall('EXPIRE', KEYS[4], day_left)
  used = used + 1
end
return { GRANTED, 0, after, interval, quota, used, day_left }
