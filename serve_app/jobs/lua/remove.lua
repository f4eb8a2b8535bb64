-- Remove an ended job for its owner: {'done'}, or the reason.
local id, owner = ...
local record, reason = load_owned(id, owner)
if not record then return { reason } end
if record.status == 'PENDING' or record.status == 'PROCESSING' then return { 'unended' } end
remove_job(record)
return { 'done' }
