-- Undo the delivery of jobs that this lease holds: how many wait again.
local token = ARGV[1]
local returned = 0
for place = 2, #ARGV do
  local record = load_held(ARGV[place], token)
  if record and may(record, 'PENDING') then
    put_back(record, record.deliveries - 1, record.strikes)
    wake(record.model)
    returned = returned + 1
  end
end
return returned
