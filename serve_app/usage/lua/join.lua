#!lua flags=allow-oom
-- A writer joins: create the group if it is missing, and delete the names of writers that are gone (each start of a
-- replica adds a name). A name with pending entries stays, because deleting it would lose them.
-- KEYS: outbox   ARGV: group, idle ms after which a name is deleted
-- allow-oom: a full Redis must still be drained.

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
