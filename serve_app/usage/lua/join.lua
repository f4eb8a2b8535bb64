#!lua flags=allow-oom
-- A writer joins: the group is made where it is missing, and the names of writers that are gone are forgotten (every
-- start of a replica brings a new one). A name with entries still pending stays: deleting it would lose them.
-- KEYS: outbox   ARGV: group, ms without a sign of life after which a name is forgotten
-- allow-oom: a Redis that is full must still be drained.

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
  return made
end

for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for position = 1, #consumer, 2 do
    facts[consumer[position]] = consumer[position + 1]
  end
  if facts.pending == 0 and facts.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts.name)
  end
end
return 'OK'
