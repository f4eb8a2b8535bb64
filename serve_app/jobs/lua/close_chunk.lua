-- Remove a chunk from the window of claims.
local model, token = ...
redis.call('ZREM', chunks_key(model), token)
wake(model)
