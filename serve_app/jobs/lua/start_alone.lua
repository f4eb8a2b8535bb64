-- A suspect starts, alone (id, token): 1, or 0 when this lease no longer holds it.
local id, token = ARGV[1], ARGV[2]
if not load_held(id, token) then return 0 end
redis.call('HDEL', job_key(id), 'alone')
redis.call('HSET', job_key(id), 'alone', token)
return 1
