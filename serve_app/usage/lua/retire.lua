-- Forgets the names of writers that are gone; every start of a replica brings a new one. A name with entries still
-- pending stays: deleting it would lose them. One step, so that no writer takes an entry in between.
-- KEYS: outbox   ARGV: group, ms without a sign of life

for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for position = 1, #consumer, 2 do
    facts[consumer[position]] = consumer[position + 1]
  end
  if facts.pending == 0 and facts.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts.name)
  end
end
