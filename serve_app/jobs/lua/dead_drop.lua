-- Remove a dead job as its owner could, and write the audit event: 1, or 0 for no such dead job.
local id = ...
local record = load_dead(id)
if not record then return 0 end
remove_job(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', select(2, ...))
return 1
