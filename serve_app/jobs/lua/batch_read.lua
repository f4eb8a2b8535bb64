-- A batch of this owner: {'done', fields, items by status in the order of STATUSES, rows}, or the reason. The rows are
-- `limit` items from `first` on: index, name, job, how it ended, and the job's status, slug and detail. With `results`
-- each row also has the result (up to 64 kB), and nothing is counted: counting reads every item, and results are read
-- in many small pages.
local batch, owner, first, limit, results = ...
first, limit, results = tonumber(first), tonumber(limit), results == '1'
local SHOWN = { 'status', 'slug', 'detail', results and 'result' or nil }
local STATUSES = { 'FETCHING', 'PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED', 'REFUSED' }

local function status_of(job, ending)
  local status = job and redis.call('HGET', job_key(job), 'status')
  return status or (ending and cjson.decode(ending).status) or (job and 'FAILED' or 'FETCHING')
end

local function row(index)
  local known = redis.call('HMGET', items_key(batch), index, index .. ':job', index .. ':end')
  local shown = known[2] and redis.call('HMGET', job_key(known[2]), unpack(SHOWN)) or {}
  return { index, cjson.decode(known[1]).name, known[2] or '', known[3] or '', shown }
end

local function counted(size)
  local counts, shown = {}, {}
  for _, status in ipairs(STATUSES) do counts[status] = 0 end
  for index = 0, size - 1 do
    local known = redis.call('HMGET', items_key(batch), index .. ':job', index .. ':end')
    local status = status_of(known[1], known[2])
    counts[status] = counts[status] + 1
  end
  for place, status in ipairs(STATUSES) do shown[place] = counts[status] end
  return shown
end

local size, reason = owned_batch_size(batch, owner)
if not size then return { reason } end
local rows = {}
for index = first, math.min(first + limit, size) - 1 do rows[#rows + 1] = row(index) end
return { 'done', redis.call('HGETALL', batch_key(batch)), results and {} or counted(size), rows }
