-- The cards of the running replicas.
return redis.call('ZRANGEBYSCORE', replicas_key(ARGV[1]), NOW, '+inf')
