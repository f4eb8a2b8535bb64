-- Free the chunk's place in the window.
redis.call('ZREM', chunks_key(ARGV[1]), ARGV[2])
wake(ARGV[1])
