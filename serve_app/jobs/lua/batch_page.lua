-- A page of an owner's batches, newest first: time and id of the entry to continue from ('' at the end), then id and
-- fields of each. `at` and `after` are such a position, or '+inf' and ''. Entries of expired batches are removed.
local owner, at, after, limit = ...
local listed = batches_key(owner)
local page, last, gone = {}, nil, {}
local entries, more = entries_after(listed, at, after, '-inf', PAGE_LOOKS)
for position, entry in ipairs(entries) do
  local id = entry[1]
  local fields = redis.call('HGETALL', batch_key(id))
  if #fields == 0 then
    gone[#gone + 1] = id
  elseif owned_batch_size(id, owner) then
    page[#page + 1] = { id, fields }
  end
  last = entry
  if #page == limit + 0 then
    more = more or position < #entries
    break
  end
end
if #gone > 0 then redis.call('ZREM', listed, unpack(gone)) end
return { more and last[2] or '', more and last[1] or '', unpack(page) }
