-- A page of an owner's jobs, newest first: time and id of the entry to continue from ('' at the end), then id and
-- fields of each job. `at` and `after` are such a position, or '+inf' and ''; `since` is a time; `status` and `model`
-- may be ''. Entries of expired jobs are removed.
local owner, at, after, since, limit, status, model = ...
local SHOWN = { 'v', 'status', 'model', 'submitted_at', 'started_at', 'completed_at', 'run', 'deliveries', 'strikes',
  'slug', 'detail', 'priority', 'keep' }
local listed = jobs_key(owner)
local page, last, gone = {}, nil, {}

local function fits(fields)
  return fields[1] + 0 <= VERSION and (status == '' or fields[2] == status) and (model == '' or fields[3] == model)
end

local entries, more = entries_after(listed, at, after, since, PAGE_LOOKS)
for position, entry in ipairs(entries) do
  local id = entry[1]
  local fields = redis.call('HMGET', job_key(id), unpack(SHOWN))
  if not fields[1] then
    gone[#gone + 1] = id
  elseif fits(fields) then
    local shown = {}
    for column, name in ipairs(SHOWN) do
      shown[2 * column - 1], shown[2 * column] = name, fields[column] or ''
    end
    page[#page + 1] = { id, shown }
  end
  last = entry
  if #page == limit + 0 then
    more = more or position < #entries
    break
  end
end
if #gone > 0 then redis.call('ZREM', listed, unpack(gone)) end
return { more and last[2] or '', more and last[1] or '', unpack(page) }
