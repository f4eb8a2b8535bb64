-- A snapshot of a model's queue: leased jobs, dead jobs kept, replicas, longest wait in ms, waiting jobs as counted in
-- the queues themselves, and the ledger. Any owner may have the oldest job, so the first job of every owner is read.
local model = ...
local oldest, waiting = 0, 0
for _, priority in ipairs(PRIORITIES) do
  for _, owner in ipairs(redis.call('ZRANGE', ring_key(model, priority), 0, -1)) do
    waiting = waiting + redis.call('ZCARD', wait_key(model, priority, owner))
    local first = redis.call('ZRANGE', wait_key(model, priority, owner), 0, 0)[1]
    local times = first and redis.call('HMGET', job_key(first), 'reopened_at', 'submitted_at') or {}
    local waits_since = times[1] or times[2]
    if waits_since then oldest = math.max(oldest, NOW - waits_since) end
  end
end
return {
  redis.call('ZCARD', lease_key(model)), redis.call('ZCARD', dead_key(model)),
  redis.call('ZCOUNT', replicas_key(model), NOW, '+inf'), oldest, waiting,
  redis.call('HGETALL', ledger_key(model)),
}
