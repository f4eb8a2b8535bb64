-- A bucket that holds BURST_US worth of requests and fills steadily: one request every `interval`. All it remembers is
-- when it is full again (the generic cell rate algorithm). Times in microseconds, whole numbers.

local BURST_US = 2000000

-- What is missing in the bucket: now, and after one request more; and how long that request has to wait, 0 if not.
local function look(full_at, now, interval)
  local room = math.max(BURST_US, interval)
  -- Never more than a whole bucket: the clock may have gone back, or the rate may have been raised.
  local missing = math.min(math.max((tonumber(full_at) or 0) - now, 0), room)
  return missing, missing + interval, math.max(missing + interval - room, 0)
end
