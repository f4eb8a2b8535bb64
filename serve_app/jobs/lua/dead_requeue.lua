-- Start the next run of a dead job (id, then the event for the audit): {'reopened', run}, or why not as `reopen` says,
-- or nothing when there is no such dead job.
local record = buried(ARGV[1])
if not record then return {} end
local reason = reopen(record)
if reason then return reason end
unbury(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 2))
return { 'reopened', record.run }
