-- Put a stop into force in place of the last one (its name, what is said of it, then the event for the audit). The
-- removal comes first: a full Redis takes that, and who fills it must be stoppable.
redis.call('HDEL', stops_key(), ARGV[1])
redis.call('HSET', stops_key(), ARGV[1], ARGV[2])
redis.call('XADD', outbox_key(), '*', 'kind', 'audit', unpack(ARGV, 3))
