-- A bucket that holds BURST_US worth of requests and fills steadily: one request every `interval`. It stores only the
-- time at which it is full again (the generic cell rate algorithm) and its debt. Times in microseconds, whole numbers.

local BURST_US = 2000000
local KEPT_MS = 60000

local function capacity_of(interval) return math.max(BURST_US, interval) end

-- How far the bucket is from full now and after one more request, and how long that request must wait.
local function read_bucket(kept, now, interval)
  local full_at, owed = string.match(kept or '', '^(%d+) ?(%d*)$')
  -- At most a whole bucket and its debt: the clock may have gone back, or the rate may have been raised.
  local most = capacity_of(interval) + (tonumber(owed) or 0)
  local missing = math.min(math.max((tonumber(full_at) or 0) - now, 0), most)
  return missing, missing + interval, math.max(missing + interval - capacity_of(interval), 0)
end

-- Store how far the bucket is from full. The write may fail: a Redis that refuses writes must not block reads.
local function write_bucket(bucket, now, missing, interval)
  local owed = missing - capacity_of(interval)
  local kept = string.format(owed > 0 and '%.0f %.0f' or '%.0f', now + missing, owed)
  redis.pcall('SET', bucket, kept, 'PX', string.format('%.0f', math.max(KEPT_MS, missing / 1000)))
end
