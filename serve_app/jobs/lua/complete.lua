-- End jobs with a result (id, result, id, result, …): 1 or 0 for each. No token is asked for: finished work counts,
-- even after the lease was lost.
local ended = {}
for place = 1, #ARGV, 2 do
  local record = load(ARGV[place])
  ended[#ended + 1] = 0
  if record and may(record, 'COMPLETED') then
    finish(record, 'COMPLETED', 'completed', { result = ARGV[place + 1] })
    let_expire(record, false)
    ended[#ended] = 1
  end
end
return ended
