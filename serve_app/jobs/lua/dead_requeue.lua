-- Start the next run of a dead job, and write the audit event: {'reopened', run}, or the reason as in `reopen`, or an
-- empty reply for no such dead job.
local id = ...
local record = load_dead(id)
if not record then return {} end
local reason = reopen(record)
if reason then return reason end
remove_dead_letter(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', select(2, ...))
return { 'reopened', record.run }
