-- Remove a batch whose items have all ended, and their jobs: {'done'}, or the reason.
local batch, owner = ...

-- The batch's data about an ended job whose record has expired: enough for PostgreSQL to find its outcome.
local function remembered(job, index)
  local known = redis.call('HMGET', batch_key(batch), 'model', 'submitted_at', 'completed_at')
  local ending = cjson.decode(redis.call('HGET', items_key(batch), index .. ':end') or '{}')
  return { id = job, owner = owner, model = known[1], reference = '', bytes = 0, run = ending.run or 1,
    status = ending.status or 'FAILED', deliveries = 0, submitted_at = known[2], completed_at = known[3] }
end

local size, reason = owned_batch_size(batch, owner)
if not size then return { reason } end
if redis.call('HGET', batch_key(batch), 'open') + 0 > 0 then return { 'unended' } end
redis.call('ZREM', batches_key(owner), batch)
for index = 0, size - 1 do
  local job = redis.call('HGET', items_key(batch), index .. ':job')
  if job and redis.call('EXISTS', removed_key(job)) == 0 then
    local record, version = load(job)
    if record or not version then remove_job(record or remembered(job, index)) end
  end
end
redis.call('UNLINK', batch_key(batch), items_key(batch))
return { 'done' }
