-- A replica's heartbeat.
local model, card = ...
local replicas = replicas_key(model)
redis.call('ZREMRANGEBYSCORE', replicas, '-inf', NOW)
redis.call('ZADD', replicas, NOW + HEARTBEAT_MS, card)
redis.call('PEXPIRE', replicas, HEARTBEAT_MS)
