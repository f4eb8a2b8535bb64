-- Shared by all scripts. The lines above (keys, numbers, ALLOWED) come from scripts.py.
--
-- Memory: a full Redis refuses a script's first write, but no later one. So submit starts with a write that Redis may
-- refuse, and every other script with one that it never refuses (a removal): a full Redis accepts no new jobs, and
-- those it holds can still run and end.

local CLOCK = redis.call('TIME')
local NOW = CLOCK[1] * 1000 + math.floor(CLOCK[2] / 1000)

local NOW_US = CLOCK[1] * 1000000 + CLOCK[2]

local FIELDS = {
  'v', 'owner', 'model', 'priority', 'status', 'run', 'deliveries', 'strikes', 'turn', 'token', 'alone', 'suspect',
  'reference', 'bytes', 'weight', 'pixels', 'submitted_at', 'started_at', 'completed_at', 'item', 'keep',
}

-- The record of a job; nil when it is gone (second value false) or of a newer version (second value that version).
local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] or values[1] + 0 > VERSION then return nil, values[1] end
  local record = { id = id }
  for place, name in ipairs(FIELDS) do record[name] = values[place] end
  record.weight = record.weight or record.bytes  -- older releases counted inputs only
  return record
end

-- The record of a job that this lease still holds, or nil.
local function load_held(id, token)
  local record = load(id)
  if record and record.status == 'PROCESSING' and record.token == token then return record end
end

-- The record of a job of this owner; else nil and the reason: 'unknown', or 'foreign' for a record of another version.
local function load_owned(id, owner)
  local record, version = load(id)
  if record and record.owner == owner then return record end
  local is_newer = not record and version and redis.call('HGET', job_key(id), 'owner') == owner
  return nil, is_newer and 'foreign' or 'unknown'
end

local function may(record, status) return ALLOWED[record.status][status] end

-- Change the status of a job, and other fields of its record. Only this function does, so every change is in ALLOWED.
-- Callers use `may` or `load_held` before their first write, because an error does not undo writes.
local function change(record, status, ...)
  if not may(record, status) then error('a job may not go from ' .. record.status .. ' to ' .. status) end
  record.status = status
  redis.call('HSET', job_key(record.id), 'status', status, ...)
end

local function count(model, name)
  return redis.call('HINCRBY', ledger_key(model), name, 1)
end

-- Remove a job from its owner's queue or from the leases.
local function leave_queue(record)
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

-- Queue a job at its turn, and put its owner into the ring.
local function enter_queue(record)
  redis.call('ZADD', wait_key(record.model, record.priority, record.owner), record.turn, record.id)
  redis.call('ZADD', ring_key(record.model, record.priority), 'NX', count(record.model, 'turn'), record.owner)
end

-- Add a job to its owner's list. Jobs accepted in one step share a time, so a page continues by time and id.
local function add_to_list(record)
  local listed = jobs_key(record.owner)
  redis.call('ZADD', listed, NOW_US, record.id)
  redis.call('ZREMRANGEBYRANK', listed, 0, -(LISTED_MAX + 1))
  redis.call('EXPIRE', listed, LISTED_TTL_S)
end

-- Entries of a sorted list after a position (a score and an id; '+inf' and '' for the beginning), highest first down to
-- the score `last`: up to `looks` of {id, score}, and whether there are more. Entries may share a score, so a position
-- has both. Redis orders equal scores by bytes, and so does `<`, because ids are lower-case hexadecimal.
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

-- Changes made by this script, for requests that wait for a job; scripts.py publishes them as one message at the end.
-- Nothing can wait for a job that does not exist yet, so submits note no change.
local changed = {}

local function note_change(record, status)
  changed[#changed + 1] = record.id
  changed[#changed + 1] = status
end

local function publish_changes()
  if #changed > 0 then redis.call('PUBLISH', changes_key(), table.concat(changed, ' ')) end
end

-- Whether a job must run alone: it was lost several times, or was in a forward pass that hung.
local function is_suspect(record) return record.deliveries + 0 >= SUSPECT_AFTER or record.suspect == '1' end

-- PROCESSING -> PENDING.
local function put_back(record, deliveries, strikes)
  leave_queue(record)
  redis.call('HDEL', job_key(record.id), 'token', 'alone')
  change(record, 'PENDING', 'deliveries', deliveries, 'strikes', strikes)
  enter_queue(record)
  note_change(record, 'PENDING')
end

-- Why jobs of this total weight (one job by default) cannot be accepted now, as the script's reply; else nil, and how
-- many jobs are in flight.
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

local function input_exists(record)
  return record.reference == '' or redis.call('EXISTS', record.reference) == 1
end

-- FAILED -> PENDING. Start the next run of a failed job, at its old turn: nil, or the reason as in `refusal`,
-- {'unfailed'} or {'input-gone'}.
local function reopen(record)
  if record.status ~= 'FAILED' or not may(record, 'PENDING') then return { 'unfailed' } end
  local reason = refusal(record.model, record.weight)
  if reason then return reason end
  if not input_exists(record) then return { 'input-gone' } end
  count(record.model, 'reopened')
  record.run = record.run + 1
  redis.call('HDEL', job_key(record.id), 'started_at', 'completed_at', 'result', 'slug', 'detail', 'suspect')
  change(record, 'PENDING', 'run', record.run, 'deliveries', 0, 'strikes', 0, 'reopened_at', NOW)
  redis.call('PERSIST', job_key(record.id))
  if record.reference ~= '' then redis.call('PERSIST', record.reference) end
  redis.call('INCRBY', held_bytes_key(), record.weight)
  if record.item then reopen_item(record.item) end
  enter_queue(record)
  wake(record.model)
end

-- Queue an event for the owner's webhooks. One EXISTS for an owner without any; never an error, because the job must
-- end.
local function queue_webhook_event(record, status)
  if redis.call('EXISTS', webhooks_key(record.owner)) == 0 then return end
  if redis.call('XLEN', webhook_events_key()) >= WEBHOOK_EVENTS_MAX then
    redis.call('HINCRBY', webhook_totals_key(), 'dropped', 1)
    return
  end
  redis.call('XADD', webhook_events_key(), '*', 'type', 'job.' .. string.lower(status), 'at', NOW,
    'owner', record.owner, 'job_id', record.id, 'run', record.run, 'status', status, 'model', record.model)
end

-- End a job, write its outcome to the outbox and stop counting it towards QUEUE_MAX_BYTES. `outcome`: result, or slug
-- and detail. The caller decides next what happens to record and input.
local function finish(record, status, counter, outcome)
  leave_queue(record)
  local result, slug, detail = outcome.result or '', outcome.slug or '', outcome.detail or ''
  redis.call('HDEL', job_key(record.id), 'token', 'alone')
  change(record, status, 'completed_at', NOW, 'result', result, 'slug', slug, 'detail', detail)
  redis.call('DECRBY', held_bytes_key(), record.weight)
  count(record.model, counter)
  note_change(record, status)
  redis.call('XADD', outbox_key(), '*', 'kind', 'outcome', 'job_id', record.id, 'run', record.run,
    'owner', record.owner, 'model', record.model, 'status', status, 'dead', counter == 'dead' and '1' or '0',
    'slug', slug, 'detail', detail, 'result', result, 'deliveries', record.deliveries,
    'submitted_at', record.submitted_at, 'started_at', record.started_at or '0', 'completed_at', NOW)
  queue_webhook_event(record, status)
  if record.item then finish_item(record.item, NOW, status, slug, detail, record.run) end
end

-- Set the TTL of an ended job's record. Its input has the same TTL when it `stays` or its owner asked to keep it, and
-- is deleted otherwise.
local function let_expire(record, stays)
  if record.reference ~= '' then
    if stays or record.keep then
      redis.call('EXPIRE', record.reference, JOB_TTL_S)
    else
      redis.call('UNLINK', record.reference)
    end
  end
  redis.call('EXPIRE', job_key(record.id), JOB_TTL_S)
end

-- Remove a job from the dead letters: 1, or 0 when it was not there. The caller decides about record and input.
local function remove_dead_letter(record)
  local dead = redis.call('ZREM', dead_key(record.model), record.id)
  if dead == 1 then redis.call('DECRBY', dead_bytes_key(record.model), record.bytes) end
  return dead
end

-- Remove an ended job for its owner, or a dead one for an admin. The outbox asks PostgreSQL to delete its outcome;
-- until then the key `removed` hides that outcome.
local function remove_job(record)
  local dead = remove_dead_letter(record)
  redis.call('ZREM', jobs_key(record.owner), record.id)
  redis.call('UNLINK', job_key(record.id), outputs_key(record.id),
    record.reference ~= '' and record.reference or job_key(record.id))
  redis.call('SET', removed_key(record.id), '1', 'EX', REMOVED_TTL_S)
  redis.call('XADD', outbox_key(), '*', 'kind', 'removal', 'job_id', record.id, 'run', record.run,
    'owner', record.owner, 'model', record.model, 'status', record.status, 'dead', dead,
    'deliveries', record.deliveries, 'submitted_at', record.submitted_at, 'started_at', record.started_at or '0',
    'completed_at', record.completed_at, 'removed_at', NOW)
end

-- Keep a dead job for inspection. When there are too many or they are too large, the oldest go: their input at once,
-- their record after the TTL of an ended job, so that an owner can still read that the job died.
local function dead_letter(record)
  local dead, total = dead_key(record.model), dead_bytes_key(record.model)
  redis.call('ZADD', dead, NOW, record.id)
  local bytes = redis.call('INCRBY', total, record.bytes)
  while redis.call('ZCARD', dead) > DEAD_MAX_JOBS or bytes > DEAD_MAX_BYTES do
    local id = redis.call('ZPOPMIN', dead)[1]
    if not id then  -- the byte count was wrong: no job is kept
      redis.call('DEL', total)
      return
    end
    local kept = redis.call('HMGET', job_key(id), 'bytes', 'reference')
    bytes = redis.call('DECRBY', total, kept[1] or 0)
    if kept[2] and kept[2] ~= '' then redis.call('UNLINK', kept[2]) end
    redis.call('EXPIRE', job_key(id), JOB_TTL_S)
  end
end

-- The record of a job among the dead letters, or nil.
local function load_dead(id)
  local record = load(id)
  if record and redis.call('ZSCORE', dead_key(record.model), id) then return record end
end

-- End a delivery without an answer, of a `kind` as in release_as_lost.lua. It is a strike only if this lease reported that
-- the job ran alone and the replica was lost.
local function release_as_lost(record, reason, kind)
  local transient = kind == 'transient'
  local strikes = record.strikes + (record.alone == record.token and not transient and 1 or 0)
  if strikes < MAX_STRIKES and record.deliveries + 0 < (transient and TRANSIENT_TRIES or MAX_DELIVERIES) then
    put_back(record, record.deliveries, strikes)
    if kind == 'suspects' then redis.call('HSET', job_key(record.id), 'suspect', '1') end
    return
  end
  redis.call('HDEL', job_key(record.id), 'alone')
  redis.call('HSET', job_key(record.id), 'strikes', strikes)
  finish(record, 'FAILED', 'dead', {
    slug = 'job-dead',
    detail = string.format('Given up after %d deliveries, %d of them lost while the job ran alone. The last: %s',
      record.deliveries, strikes, reason),
  })
  dead_letter(record)
end
