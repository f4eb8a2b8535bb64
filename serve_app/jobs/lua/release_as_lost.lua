-- Count a delivery of jobs that this lease holds as lost, and make them suspects when told: how many it held.
local token, reason, suspects = ARGV[1], ARGV[2], ARGV[3] == '1'
local lost = 0
for place = 4, #ARGV do
  local record = held(ARGV[place], token)
  if record and may(record, 'PENDING') then
    lose(record, reason, suspects)
    wake(record.model)
    lost = lost + 1
  end
end
return lost
