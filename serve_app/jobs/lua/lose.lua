-- Count a delivery of jobs that this lease holds as lost: how many it held.
local token, reason = ARGV[1], ARGV[2]
local lost = 0
for place = 3, #ARGV do
  local record = held(ARGV[place], token)
  if record and may(record, 'PENDING') then
    lose(record, reason)
    wake(record.model)
    lost = lost + 1
  end
end
return lost
