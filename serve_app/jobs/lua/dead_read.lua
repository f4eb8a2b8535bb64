-- A dead job: its fields, and 1 or 0 for its input; or nothing when there is no such dead job.
local id = ...
local record = load_dead(id)
if not record then return {} end
return { redis.call('HGETALL', job_key(record.id)), input_exists(record) and 1 or 0 }
