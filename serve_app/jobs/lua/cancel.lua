-- End a job because its owner (id, owner) wants it: {'done', record}, also when it was cancelled before, or why not.
-- Whoever works on it finds that the lease is no longer theirs.
local record, refusal = owned(ARGV[1], ARGV[2])
if not record then return { refusal } end
if record.status ~= 'CANCELLED' then
  if not may(record, 'CANCELLED') then return { 'ended' } end
  finish(record, 'CANCELLED', 'cancelled', {})
  retire(record, false)
end
return { 'done', redis.call('HGETALL', job_key(record.id)) }
