-- Cancel a job at its owner's request: {'done', record}, also when it was cancelled before, or the reason.
-- The dispatcher that runs it finds that it no longer holds the lease.
local id, owner = ...
local record, refusal = load_owned(id, owner)
if not record then return { refusal } end
if record.status ~= 'CANCELLED' then
  if not may(record, 'CANCELLED') then return { 'ended' } end
  finish(record, 'CANCELLED', 'cancelled', {})
  let_expire(record, false)
end
return { 'done', redis.call('HGETALL', job_key(record.id)) }
