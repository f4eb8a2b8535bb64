-- A replica's heartbeat (model, card).
local replicas = replicas_key(ARGV[1])
redis.call('ZREMRANGEBYSCORE', replicas, '-inf', NOW)
redis.call('ZADD', replicas, NOW + HEARTBEAT_MS, ARGV[2])
redis.call('PEXPIRE', replicas, HEARTBEAT_MS)
