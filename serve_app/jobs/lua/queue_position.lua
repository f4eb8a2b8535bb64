-- The queue position of a job: its place among its owner's jobs, the number of waiting owners of its class, 1 when that
-- class is served first, running jobs of the model, and the model's ledger. Nil when it does not wait.
local id = ...
local record = load(id)
local place = record and redis.call('ZRANK', wait_key(record.model, record.priority, record.owner), record.id)
if not place then return nil end
return {
  place, redis.call('ZCARD', ring_key(record.model, record.priority)), record.priority == PRIORITIES[1] and 1 or 0,
  redis.call('ZCARD', lease_key(record.model)), redis.call('HGETALL', ledger_key(record.model)),
}
