-- A page of an owner's list, newest first: the place to go on from ('' at the end), then id and fields of each job.
-- `before` and `since` are places; `status` and `model` may be ''. Jobs whose record is gone leave the list.
local owner, before, since, limit, status, model = unpack(ARGV)
local SHOWN = { 'v', 'status', 'model', 'submitted_at', 'started_at', 'completed_at', 'run', 'deliveries', 'strikes',
  'slug', 'detail', 'priority', 'keep' }
local listed = jobs_key(owner)
local page, place, gone = {}, nil, {}

local function fits(fields)
  return fields[1] + 0 <= VERSION and (status == '' or fields[2] == status) and (model == '' or fields[3] == model)
end

local entries = redis.call('ZREVRANGEBYSCORE', listed, before, since, 'WITHSCORES', 'LIMIT', 0, PAGE_LOOKS)
for position = 1, #entries, 2 do
  if #page == limit + 0 then break end
  place = entries[position + 1]
  local fields = redis.call('HMGET', job_key(entries[position]), unpack(SHOWN))
  if not fields[1] then
    gone[#gone + 1] = entries[position]
  elseif fits(fields) then
    local shown = {}
    for column, name in ipairs(SHOWN) do
      shown[2 * column - 1], shown[2 * column] = name, fields[column] or ''
    end
    page[#page + 1] = { entries[position], shown }
  end
end
local more = place and redis.call('ZCOUNT', listed, since, '(' .. place) > 0
if #gone > 0 then redis.call('ZREM', listed, unpack(gone)) end
return { more and place or '', unpack(page) }
