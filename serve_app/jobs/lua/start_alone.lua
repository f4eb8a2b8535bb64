-- A suspect begins, alone: 1, or 0 when the lease is no longer its own.
local id, token = ARGV[1], ARGV[2]
if not held(id, token) then return 0 end
redis.call('HDEL', job_key(id), 'alone')
redis.call('HSET', job_key(id), 'alone', token)
return 1
