-- Remove a dead job with its input (id, then the event for the audit): 1, or 0 when there is none.
local record = buried(ARGV[1])
if not record then return 0 end
unbury(record)
redis.call('UNLINK', job_key(record.id), record.reference ~= '' and record.reference or job_key(record.id))
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 2))
return 1
