#!lua flags=allow-oom
-- Keeps or takes back what an admin decided on one user, and tells the outbox in the same step.
-- KEYS: the decisions, outbox
-- ARGV: most decisions, principal id, the decision ('' takes it back), then the event: field, value, field, value ...
-- Reply: 'new', 'replaced' or 'removed'; 'full' or 'unknown' when nothing was done.
-- allow-oom: DECISIONS_MAX bounds them, and who fills the memory must be stoppable.

local most, id, decision = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local there = redis.call('HEXISTS', KEYS[1], id) == 1
local done = there and 'replaced' or 'new'
if decision == '' then
  if not there then return 'unknown' end
  redis.call('HDEL', KEYS[1], id)
  done = 'removed'
else
  if not there and redis.call('HLEN', KEYS[1]) >= most then return 'full' end
  redis.call('HSET', KEYS[1], id, decision)
end
redis.call('XADD', KEYS[2], '*', 'kind', 'audit', unpack(ARGV, 4))
return done
