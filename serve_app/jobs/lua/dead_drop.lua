-- Remove a dead job, as its owner could remove an ended one (id, then the audit event): 1, or 0 for no such dead job.
local record = load_dead(ARGV[1])
if not record then return 0 end
remove_job(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 2))
return 1
