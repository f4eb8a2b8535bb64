-- Start the next run of a dead job (id, then the audit event): {'reopened', run}, or the reason as in `reopen`, or an
-- empty reply for no such dead job.
local record = load_dead(ARGV[1])
if not record then return {} end
local reason = reopen(record)
if reason then return reason end
remove_dead_letter(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 2))
return { 'reopened', record.run }
