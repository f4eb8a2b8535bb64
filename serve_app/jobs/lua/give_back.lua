-- Undo the delivery of jobs that this lease holds: how many wait again.
local token = ...
local returned = 0
for _, id in ipairs({ select(2, ...) }) do
  local record = load_held(id, token)
  if record and may(record, 'PENDING') then
    put_back(record, record.deliveries - 1, record.strikes)
    wake(record.model)
    returned = returned + 1
  end
end
return returned
