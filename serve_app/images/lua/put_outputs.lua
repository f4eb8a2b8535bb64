-- Store the files of a job that this lease holds, in place of those of an earlier attempt (keys: its record, its files;
-- token, TTL in seconds, then name, value, …): 1, or 0 when the lease does not hold it; then nothing is changed.
local held = redis.call('HMGET', KEYS[1], 'status', 'token')
if held[1] ~= 'PROCESSING' or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])  -- a full Redis refuses only a script's first write
redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
