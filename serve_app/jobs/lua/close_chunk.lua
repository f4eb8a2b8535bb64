-- Free the place of a chunk (model, token) in the window of claims.
redis.call('ZREM', chunks_key(ARGV[1]), ARGV[2])
wake(ARGV[1])
