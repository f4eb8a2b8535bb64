-- Set a stop in place of the last one, and write the audit event. The removal comes first, because a full Redis accepts
-- it, and it must be possible to stop the user who fills it.
local name, notice = ...
redis.call('HDEL', stops_key(), name)
redis.call('HSET', stops_key(), name, notice)
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', select(3, ...))
