-- A page of an owner's batches, newest first: the place to go on from ('' at the end), then id and fields of each.
-- Batches that are gone leave the list.
local owner, before, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local listed = batches_key(owner)
local page, place, gone = {}, nil, {}
local entries = redis.call('ZREVRANGEBYSCORE', listed, before, '-inf', 'WITHSCORES', 'LIMIT', 0, PAGE_LOOKS)
for position = 1, #entries, 2 do
  if #page == limit then break end
  place = entries[position + 1]
  local fields = redis.call('HGETALL', batch_key(entries[position]))
  if #fields == 0 then
    gone[#gone + 1] = entries[position]
  elseif owned_batch(entries[position], owner) then
    page[#page + 1] = { entries[position], fields }
  end
end
local more = place and redis.call('ZCOUNT', listed, '-inf', '(' .. place) > 0
if #gone > 0 then redis.call('ZREM', listed, unpack(gone)) end
return { more and place or '', unpack(page) }
