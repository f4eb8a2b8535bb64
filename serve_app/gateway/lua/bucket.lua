-- A bucket that holds BURST_US worth of requests and fills steadily: one request every `interval`. All it remembers is
-- when it is full again (the generic cell rate algorithm), and what it owes. Times in microseconds, whole numbers.

local BURST_US = 2000000
local KEPT_MS = 60000

local function room_of(interval) return math.max(BURST_US, interval) end

-- What is missing in the bucket: now, and after one request more; and how long that request has to wait, 0 if not.
local function look(kept, now, interval)
  local full_at, owed = string.match(kept or '', '^(%d+) ?(%d*)$')
  -- Never more than a whole bucket and what it owes: the clock may have gone back, or the rate may have been raised.
  local most = room_of(interval) + (tonumber(owed) or 0)
  local missing = math.min(math.max((tonumber(full_at) or 0) - now, 0), most)
  return missing, missing + interval, math.max(missing + interval - room_of(interval), 0)
end

-- Remember what is missing. The write may fail: a Redis that takes none must not keep anybody from reading.
local function keep(bucket, now, missing, interval)
  local owed = missing - room_of(interval)
  local kept = string.format(owed > 0 and '%.0f %.0f' or '%.0f', now + missing, owed)
  redis.pcall('SET', bucket, kept, 'PX', string.format('%.0f', math.max(KEPT_MS, missing / 1000)))
end
