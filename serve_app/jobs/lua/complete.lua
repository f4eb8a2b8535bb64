-- End jobs with a result (id, result, id, result, …): 1 or 0 for each. No token: finished work counts, whoever did it.
local ended = {}
for place = 1, #ARGV, 2 do
  local record = load(ARGV[place])
  ended[#ended + 1] = 0
  if record and may(record, 'COMPLETED') then
    finish(record, 'COMPLETED', 'completed', { result = ARGV[place + 1] })
    retire(record, false)
    ended[#ended] = 1
  end
end
return ended
