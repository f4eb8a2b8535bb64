-- Count the delivery of jobs that this lease holds as lost, and with `suspects` make them suspects: how many it held.
local token, reason, suspects = ARGV[1], ARGV[2], ARGV[3] == '1'
local lost = 0
for place = 4, #ARGV do
  local record = load_held(ARGV[place], token)
  if record and may(record, 'PENDING') then
    release_as_lost(record, reason, suspects)
    wake(record.model)
    lost = lost + 1
  end
end
return lost
