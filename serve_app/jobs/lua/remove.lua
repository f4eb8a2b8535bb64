-- Remove an ended job for its owner (id, owner): {'done'}, or the reason.
local record, reason = load_owned(ARGV[1], ARGV[2])
if not record then return { reason } end
if record.status == 'PENDING' or record.status == 'PROCESSING' then return { 'unended' } end
remove_job(record)
return { 'done' }
