-- Where a job waits: its place among its owner's jobs, how many owners of its class wait, 1 when that class is served
-- first, jobs of the model that run, and the model's ledger. Nil when it does not wait.
local record = load(ARGV[1])
local place = record and redis.call('ZRANK', wait_key(record.model, record.priority, record.owner), record.id)
if not place then return nil end
return {
  place, redis.call('ZCARD', ring_key(record.model, record.priority)), record.priority == PRIORITIES[1] and 1 or 0,
  redis.call('ZCARD', lease_key(record.model)), redis.call('HGETALL', ledger_key(record.model)),
}
