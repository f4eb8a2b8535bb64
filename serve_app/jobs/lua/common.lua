-- What all scripts share. The lines above this file (keys, numbers, ALLOWED) come from scripts.py.
--
-- Memory: Redis refuses a script's first write when it is full, but never a script that has written. So submit
-- starts with a write that Redis may refuse, and every other script with one that it never refuses (a removal):
-- a full Redis takes no new jobs, and those it has can still run and end.

local CLOCK = redis.call('TIME')
local NOW = CLOCK[1] * 1000 + math.floor(CLOCK[2] / 1000)

local NOW_US = CLOCK[1] * 1000000 + CLOCK[2]

local FIELDS = {
  'v', 'owner', 'model', 'priority', 'status', 'run', 'deliveries', 'strikes', 'turn', 'token', 'alone', 'suspect',
  'reference', 'bytes', 'weight', 'pixels', 'submitted_at', 'started_at', 'completed_at', 'item', 'keep',
}

-- The record of a job. Nil when it is gone or of a newer version; then the second value is that version or false.
local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] or values[1] + 0 > VERSION then return nil, values[1] end
  local record = { id = id }
  for place, name in ipairs(FIELDS) do record[name] = values[place] end
  record.weight = record.weight or record.bytes  -- releases before weighed inputs alone
  return record
end

-- The record of a job that this lease still holds, or nil.
local function held(id, token)
  local record = load(id)
  if record and record.status == 'PROCESSING' and record.token == token then return record end
end

-- The record of a job of this owner; else nil and why not: 'unknown', or 'foreign' for a record of another version.
local function owned(id, owner)
  local record, version = load(id)
  if record and record.owner == owner then return record end
  local theirs = not record and version and redis.call('HGET', job_key(id), 'owner') == owner
  return nil, theirs and 'foreign' or 'unknown'
end

local function may(record, status) return ALLOWED[record.status][status] end

-- Change the status of a job, and other fields of its record. Nothing else does, so no change is outside of ALLOWED; who
-- calls has asked `may` or `held` before it wrote anything, because an error undoes nothing.
local function change(record, status, ...)
  if not may(record, status) then error('a job may not go from ' .. record.status .. ' to ' .. status) end
  record.status = status
  redis.call('HSET', job_key(record.id), 'status', status, ...)
end

local function count(model, name)
  return redis.call('HINCRBY', ledger_key(model), name, 1)
end

-- Take a job out of where it stands: the wait of its owner, or the leases.
local function leave(record)
  if record.status == 'PROCESSING' then
    redis.call('ZREM', lease_key(record.model), record.id)
    return
  end
  local wait = wait_key(record.model, record.priority, record.owner)
  redis.call('ZREM', wait, record.id)
  if redis.call('EXISTS', wait) == 0 then
    redis.call('ZREM', ring_key(record.model, record.priority), record.owner)
  end
end

-- Put a job among the waiting, at its old place, and its owner into the ring.
local function enter(record)
  redis.call('ZADD', wait_key(record.model, record.priority, record.owner), record.turn, record.id)
  redis.call('ZADD', ring_key(record.model, record.priority), 'NX', count(record.model, 'turn'), record.owner)
end

-- Put a job on top of its owner's list. Jobs accepted in one step have one time: a page goes on by time and id.
local function enlist(record)
  local listed = jobs_key(record.owner)
  redis.call('ZADD', listed, NOW_US, record.id)
  redis.call('ZREMRANGEBYRANK', listed, 0, -(LISTED_MAX + 1))
  redis.call('EXPIRE', listed, LISTED_TTL_S)
end

-- Entries of a sorted list that come after a place (a score and an id; '+inf' and '' for the beginning), highest first
-- and down to the score `last`: up to `looks` of {id, score}, and whether there are more. Entries may share a score, so
-- the place is both. Redis orders them by bytes within a score, and so does `<`, for ids are lower-case hexadecimal.
local function entries_after(list, at, after, last, looks)
  local same = at == '+inf' and 0 or redis.call('ZCOUNT', list, at, at)
  local found = redis.call('ZREVRANGEBYSCORE', list, at, last, 'WITHSCORES', 'LIMIT', 0, looks + same + 1)
  local entries = {}
  for position = 1, #found, 2 do
    local id, score = found[position], found[position + 1]
    if tonumber(score) ~= tonumber(at) or id < after then
      if #entries == looks then return entries, true end
      entries[#entries + 1] = { id, score }
    end
  end
  return entries, false
end

local function wake(model) redis.call('PUBLISH', wake_key(), model) end

-- What this script has changed, for those who wait for a job; scripts.py publishes it in one message at its end. Nobody
-- waits for a job that does not exist yet, so submits tell nothing.
local changed = {}

local function tell(record, status)
  changed[#changed + 1] = record.id
  changed[#changed + 1] = status
end

local function publish_changes()
  if #changed > 0 then redis.call('PUBLISH', changes_key(), table.concat(changed, ' ')) end
end

-- Whether a job runs alone: it was lost before, or was in a forward pass that hung.
local function suspect(record) return record.deliveries + 0 >= SUSPECT_AFTER or record.suspect == '1' end

-- PROCESSING -> PENDING.
local function put_back(record, deliveries, strikes)
  leave(record)
  redis.call('HDEL', job_key(record.id), 'token', 'alone')
  change(record, 'PENDING', 'deliveries', deliveries, 'strikes', strikes)
  enter(record)
  tell(record, 'PENDING')
end

-- Why no jobs of this weight together (one, unless told) may come in now, as the script's reply; nil when they may.
local function refusal(model, weight, jobs)
  local stops = redis.call('HMGET', stops_key(), 'intake', 'intake:' .. model)
  if stops[1] or stops[2] then return { 'stopped', stops[1] or stops[2] } end
  local counts = redis.call('HMGET', ledger_key(model),
    'accepted', 'reopened', 'completed', 'failed', 'cancelled', 'dead')
  for place = 1, #counts do counts[place] = tonumber(counts[place] or 0) end
  local in_flight = counts[1] + counts[2] - counts[3] - counts[4] - counts[5] - counts[6]
  if in_flight + (jobs or 1) > QUEUE_MAX_JOBS then return { 'jobs' } end
  if (redis.call('GET', held_bytes_key()) or 0) + weight > QUEUE_MAX_BYTES then return { 'bytes' } end
  return nil, in_flight
end

local function input_is_there(record)
  return record.reference == '' or redis.call('EXISTS', record.reference) == 1
end

-- FAILED -> PENDING. Start the next run of a failed job, at its old place: nil, or why not as `refusal` says, or
-- {'unfailed'} or {'input-gone'}.
local function reopen(record)
  if record.status ~= 'FAILED' or not may(record, 'PENDING') then return { 'unfailed' } end
  local reason = refusal(record.model, record.weight)
  if reason then return reason end
  if not input_is_there(record) then return { 'input-gone' } end
  count(record.model, 'reopened')
  record.run = record.run + 1
  redis.call('HDEL', job_key(record.id), 'started_at', 'completed_at', 'result', 'slug', 'detail', 'suspect')
  change(record, 'PENDING', 'run', record.run, 'deliveries', 0, 'strikes', 0, 'reopened_at', NOW)
  redis.call('PERSIST', job_key(record.id))
  if record.reference ~= '' then redis.call('PERSIST', record.reference) end
  redis.call('INCRBY', held_bytes_key(), record.weight)
  if record.item then unsettle(record.item) end
  enter(record)
  wake(record.model)
end

-- An owner with webhooks is told: one look for those who have none, and never a reason for a job not to end.
local function tell_owner(record, status)
  if redis.call('EXISTS', webhooks_key(record.owner)) == 0 then return end
  if redis.call('XLEN', webhook_events_key()) >= WEBHOOK_EVENTS_MAX then
    redis.call('HINCRBY', webhook_totals_key(), 'dropped', 1)
    return
  end
  redis.call('XADD', webhook_events_key(), '*', 'type', 'job.' .. string.lower(status), 'at', NOW, 'owner', record.owner,
    'job_id', record.id, 'run', record.run, 'status', status, 'model', record.model)
end

-- End a job and tell the outbox. `outcome`: result, or slug and detail. What happens to record and input is the
-- caller's next step. The job no longer weighs on the queue.
local function finish(record, status, counter, outcome)
  leave(record)
  local result, slug, detail = outcome.result or '', outcome.slug or '', outcome.detail or ''
  redis.call('HDEL', job_key(record.id), 'token', 'alone')
  change(record, status, 'completed_at', NOW, 'result', result, 'slug', slug, 'detail', detail)
  redis.call('DECRBY', held_bytes_key(), record.weight)
  count(record.model, counter)
  tell(record, status)
  redis.call('XADD', outbox_key(), '*', 'kind', 'outcome', 'job_id', record.id, 'run', record.run,
    'owner', record.owner, 'model', record.model, 'status', status, 'dead', counter == 'dead' and '1' or '0',
    'slug', slug, 'detail', detail, 'result', result, 'deliveries', record.deliveries,
    'submitted_at', record.submitted_at, 'started_at', record.started_at or '0', 'completed_at', NOW)
  tell_owner(record, status)
  if record.item then settle(record.item, NOW, status, slug, detail, record.run) end
end

-- What happens to record and input of a job that ended: the record stays for a while, the input with it where it
-- `stays` or its owner asked to keep it.
local function retire(record, stays)
  if record.reference ~= '' then
    if stays or record.keep then
      redis.call('EXPIRE', record.reference, JOB_TTL_S)
    else
      redis.call('UNLINK', record.reference)
    end
  end
  redis.call('EXPIRE', job_key(record.id), JOB_TTL_S)
end

-- Take a job out of the dead ones: 1, or 0 when it was none. Its record and input are the caller's next step.
local function unbury(record)
  local dead = redis.call('ZREM', dead_key(record.model), record.id)
  if dead == 1 then redis.call('DECRBY', dead_bytes_key(record.model), record.bytes) end
  return dead
end

-- Remove an ended job for its owner, or a dead one for an admin. PostgreSQL is told to forget what came of it; until it
-- has, `removed` keeps anybody from reading it there.
local function forget(record)
  local dead = unbury(record)
  redis.call('ZREM', jobs_key(record.owner), record.id)
  redis.call('UNLINK', job_key(record.id), outputs_key(record.id),
    record.reference ~= '' and record.reference or job_key(record.id))
  redis.call('SET', removed_key(record.id), '1', 'EX', REMOVED_TTL_S)
  redis.call('XADD', outbox_key(), '*', 'kind', 'removal', 'job_id', record.id, 'run', record.run,
    'owner', record.owner, 'model', record.model, 'status', record.status, 'dead', dead,
    'deliveries', record.deliveries, 'submitted_at', record.submitted_at, 'started_at', record.started_at or '0',
    'completed_at', record.completed_at, 'removed_at', NOW)
end

-- Keep a dead job for inspection; the oldest leave when there are too many or they are too large: their input at once,
-- their record when that of any ended job would, so that nobody's job is unknown the moment it died.
local function bury(record)
  local dead, total = dead_key(record.model), dead_bytes_key(record.model)
  redis.call('ZADD', dead, NOW, record.id)
  local bytes = redis.call('INCRBY', total, record.bytes)
  while redis.call('ZCARD', dead) > DEAD_MAX_JOBS or bytes > DEAD_MAX_BYTES do
    local id = redis.call('ZPOPMIN', dead)[1]
    if not id then  -- the count of bytes was wrong: nothing is kept
      redis.call('DEL', total)
      return
    end
    local kept = redis.call('HMGET', job_key(id), 'bytes', 'reference')
    bytes = redis.call('DECRBY', total, kept[1] or 0)
    if kept[2] and kept[2] ~= '' then redis.call('UNLINK', kept[2]) end
    redis.call('EXPIRE', job_key(id), JOB_TTL_S)
  end
end

-- The record of a job that is kept as dead, or nil.
local function buried(id)
  local record = load(id)
  if record and redis.call('ZSCORE', dead_key(record.model), id) then return record end
end

-- A delivery that ended without an answer. It is a strike only if this lease reported that the job ran alone. With
-- `suspects` the job runs alone from now on.
local function lose(record, reason, suspects)
  local strikes = record.strikes + (record.alone == record.token and 1 or 0)
  if strikes < MAX_STRIKES and record.deliveries + 0 < MAX_DELIVERIES then
    put_back(record, record.deliveries, strikes)
    if suspects then redis.call('HSET', job_key(record.id), 'suspect', '1') end
    return
  end
  redis.call('HDEL', job_key(record.id), 'alone')
  redis.call('HSET', job_key(record.id), 'strikes', strikes)
  finish(record, 'FAILED', 'dead', {
    slug = 'job-dead',
    detail = string.format('Given up after %d deliveries, %d of them lost while the job ran alone. The last: %s',
      record.deliveries, strikes, reason),
  })
  bury(record)
end
