-- End jobs that this lease holds with a failure (id, slug, detail, id, …): 1 or 0 for each.
local token = ...
local failures = { select(2, ...) }
local ended = {}
for place = 1, #failures, 3 do
  local record = load_held(failures[place], token)
  ended[#ended + 1] = 0
  if record and may(record, 'FAILED') then
    finish(record, 'FAILED', 'failed', { slug = failures[place + 1], detail = failures[place + 2] })
    let_expire(record, true)
    ended[#ended] = 1
  end
end
return ended
