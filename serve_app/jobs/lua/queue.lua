-- A model's queue at one moment: leased, dead jobs kept, replicas, age in ms of the job that has waited longest, and
-- the ledger. The oldest may be anybody's, so every owner's first job is looked at.
local model, oldest = ARGV[1], 0
for _, priority in ipairs(PRIORITIES) do
  for _, owner in ipairs(redis.call('ZRANGE', ring_key(model, priority), 0, -1)) do
    local first = redis.call('ZRANGE', wait_key(model, priority, owner), 0, 0)[1]
    local submitted_at = first and redis.call('HGET', job_key(first), 'submitted_at')
    if submitted_at then oldest = math.max(oldest, NOW - submitted_at) end
  end
end
return {
  redis.call('ZCARD', lease_key(model)), redis.call('ZCARD', dead_key(model)),
  redis.call('ZCOUNT', replicas_key(model), NOW, '+inf'), oldest, redis.call('HGETALL', ledger_key(model)),
}
