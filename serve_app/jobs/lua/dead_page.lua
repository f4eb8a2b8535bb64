-- Dead jobs of a model after a position (end in ms and id; '+inf' and '' for the first page), newest first:
-- {id, end, fields}, …
local model, at, after, limit = ...
local page = {}
for place, entry in ipairs(entries_after(dead_key(model), at, after, '-inf', tonumber(limit))) do
  page[place] = { entry[1], entry[2], redis.call('HGETALL', job_key(entry[1])) }
end
return page
