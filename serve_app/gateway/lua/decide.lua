#!lua flags=allow-oom
-- Store or remove an admin's decision about one user, and write the audit event in the same step.
-- KEYS: the decisions, outbox
-- ARGV: most decisions, principal id, the decision ('' takes it back), then the event: field, value, field, value ...
-- Reply: 'new', 'replaced' or 'removed'; 'full' or 'unknown' when nothing was done.
-- allow-oom: DECISIONS_MAX bounds them, and an admin must be able to stop the user who fills the memory.

local most, id, decision = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local exists = redis.call('HEXISTS', KEYS[1], id) == 1
local done = exists and 'replaced' or 'new'
if decision == '' then
  if not exists then return 'unknown' end
  redis.call('HDEL', KEYS[1], id)
  done = 'removed'
else
  if not exists and redis.call('HLEN', KEYS[1]) >= most then return 'full' end
  redis.call('HSET', KEYS[1], id, decision)
end
redis.call('XADD', KEYS[2], '*', 'kind', 'audit', unpack(ARGV, 4))
return done
