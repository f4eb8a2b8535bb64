-- The cards of the replicas that run.
return redis.call('ZRANGEBYSCORE', replicas_key(ARGV[1]), NOW, '+inf')
