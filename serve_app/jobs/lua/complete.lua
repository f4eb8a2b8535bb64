-- End jobs with a result (id, result, id, result, …): 1 or 0 for each. No token is needed: finished work counts, even
-- after the lease was lost.
local results, ended = { ... }, {}
for place = 1, #results, 2 do
  local record = load(results[place])
  ended[#ended + 1] = 0
  if record and may(record, 'COMPLETED') then
    finish(record, 'COMPLETED', 'completed', { result = results[place + 1] })
    let_expire(record, false)
    ended[#ended] = 1
  end
end
return ended
