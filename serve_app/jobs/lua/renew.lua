-- Extend the lease of a chunk and of those of its jobs that it still holds: their ids.
local model, token = ARGV[1], ARGV[2]
local deadline = NOW + LEASE_MS

redis.call('ZREM', chunks_key(model), token)
local ours = {}
for place = 3, #ARGV do
  if load_held(ARGV[place], token) then
    redis.call('ZADD', lease_key(model), deadline, ARGV[place])
    ours[#ours + 1] = ARGV[place]
  end
end
redis.call('ZADD', chunks_key(model), deadline, token)
return ours
