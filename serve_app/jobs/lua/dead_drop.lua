-- Remove a dead job as its owner would remove an ended one (id, then the event for the audit): 1, or 0 when there is none.
local record = buried(ARGV[1])
if not record then return 0 end
forget(record)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 2))
return 1
