-- Store the files of a job, in the place of an earlier attempt's, while this lease holds it (keys: its record, its files;
-- token, life in seconds, then name, value, …): 1, or 0 where it does not, and nothing is changed.
local held = redis.call('HMGET', KEYS[1], 'status', 'token')
if held[1] ~= 'PROCESSING' or held[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])  -- first what a full Redis refuses: of a script that has written it takes all
redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
