-- Start the next run of a failed job for its owner: {'done', record}, or the reason.
local id, owner = ...
local record, reason = load_owned(id, owner)
if not record then return { reason } end
if redis.call('HGET', job_key(record.id), 'slug') == 'job-dead' then return { 'dead' } end
local refused = reopen(record)
if refused then return refused end
return { 'done', redis.call('HGETALL', job_key(record.id)) }
