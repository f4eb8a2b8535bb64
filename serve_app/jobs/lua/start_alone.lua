-- Note that a suspect starts alone: 1, or 0 when this lease no longer holds it.
local id, token = ...
if not load_held(id, token) then return 0 end
redis.call('HDEL', job_key(id), 'alone')
redis.call('HSET', job_key(id), 'alone', token)
return 1
