-- Remove a batch (id, owner) whose items have all ended, with their jobs: {'done'}, or why not.
local batch, owner = ARGV[1], ARGV[2]
local size, reason = owned_batch(batch, owner)
if not size then return { reason } end
if redis.call('HGET', batch_key(batch), 'open') + 0 > 0 then return { 'unended' } end
redis.call('ZREM', batches_key(owner), batch)
for index = 0, size - 1 do
  local job = redis.call('HGET', items_key(batch), index .. ':job')
  local record = job and load(job)
  if record then forget(record) end
end
redis.call('UNLINK', batch_key(batch), items_key(batch))
return { 'done' }
