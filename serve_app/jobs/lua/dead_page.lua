-- Dead jobs of a model after a place (its end in ms, its id; '+inf' and '' for the first page), the newest first:
-- {id, fields}, …
local model, at, after, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local dead = dead_key(model)
local most = limit + redis.call('ZCOUNT', dead, at, at)
local found = redis.call('ZREVRANGEBYSCORE', dead, at, '-inf', 'WITHSCORES', 'LIMIT', 0, most)
local page = {}
for place = 1, #found, 2 do
  local id, died_at = found[place], found[place + 1]
  if #page < limit and not (died_at == at and id >= after) then
    page[#page + 1] = { id, redis.call('HGETALL', job_key(id)) }
  end
end
return page
