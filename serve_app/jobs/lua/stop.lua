-- Set a stop in place of the last one (its name, its record, then the audit event). The removal comes first, because a
-- full Redis accepts it, and it must be possible to stop the user who fills it.
redis.call('HDEL', stops_key(), ARGV[1])
redis.call('HSET', stops_key(), ARGV[1], ARGV[2])
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 3))
